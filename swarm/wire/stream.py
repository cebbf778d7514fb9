"""One binary stream between two nodes, as frames.

hivemind hands out a StreamReader and a StreamWriter over a unix socket to p2pd. `FrameStream` takes their transport
over: bytes are read straight into the decoder's buffer, and a frame that is complete reaches its receiver in the same
callback, without a task or a copy in between. A direct connection does without p2pd.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import TypeVar, cast

from swarm.core.errors import PeerIncompatible
from swarm.wire.frames import PIECE_BYTES, Buffer, Frame, FrameDecoder, encode_head
from swarm.wire.message import Message
from swarm.wire.sealed import SealedConnection
from swarm.wire.traffic import Traffic

_ONE_WRITE_BYTES = 256 << 10
_HIGH_WATER_BYTES = 1 << 20
_MAX_WAITING = 64
Came = TypeVar("Came")
_ENDED = "the other end closed the stream, or the connection was lost"


class FrameStream(asyncio.BufferedProtocol):
    """Sends and receives frames.

    Args:
        on_frame: called with every frame, in order; must neither block nor raise.
        on_closed: called once when nothing more will come, with the reason in words.
    """

    def __init__(
        self,
        *,
        on_frame: Callable[[Frame], None],
        on_closed: Callable[[str], None],
        max_payload_bytes: int,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._on_frame = on_frame
        self._on_closed = on_closed
        self._max_payload_bytes = max_payload_bytes
        self._decoder = FrameDecoder(max_payload_bytes)
        self._transport: asyncio.Transport | SealedConnection | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._writable = asyncio.Event()
        self._writable.set()
        self._bulk_lock = asyncio.Lock()
        self._after_bulk: list[bytes] = []
        self._reading = True
        self._closed = False
        self.last_read_s = self._loop.time()
        self.traffic = Traffic()
        self.lost = asyncio.Event()

    async def take_over(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Become the protocol of this connection, beginning with the bytes that `reader` holds already."""
        transport = cast(asyncio.Transport, writer.transport)
        transport.pause_reading()
        transport.set_write_buffer_limits(high=_HIGH_WATER_BYTES)
        self._transport, self._writer = transport, writer  # the writer closes its transport when collected
        transport.set_protocol(self)
        ended = reader.at_eof()
        reader.feed_eof()
        early = await reader.read()
        self.traffic.received += len(early)
        self._received(self._decoder.feed, early)
        if ended or transport.is_closing():
            self.close(_ENDED)
        elif self._reading:
            transport.resume_reading()

    def attach(self, connection: SealedConnection) -> None:
        """Read and write this connection."""
        connection.set_write_buffer_limits(high=_HIGH_WATER_BYTES)
        self._transport = connection
        connection.attach(self)

    def received(self, data: bytes) -> None:
        """The content of a record."""
        self.traffic.received += len(data)
        self._received(self._decoder.feed, data)

    def malformed(self, reason: str) -> None:
        """What came is no record."""
        self.close(f"malformed: {reason}")

    @property
    def closed(self) -> bool:
        return self._closed

    @property
    def busy(self) -> bool:
        """Whether a bulk payload is on its way in either direction, so that small messages have to wait."""
        return self._bulk_lock.locked() or self._decoder.in_bulk or not self._writable.is_set()

    @property
    def reading(self) -> bool:
        return self._reading

    # sending ------------------------------------------------------------------------------------------------------

    def send_now(self, message: Message) -> None:
        """Queue a heartbeat without waiting; it stands behind a bulk frame that is being written.

        It is dropped if the stream is closed, or if the other end does not read what it gets.
        """
        if self._closed or self._transport is None:
            return
        head = encode_head(message, 0)
        if self._bulk_lock.locked():
            if len(self._after_bulk) < _MAX_WAITING:
                self._after_bulk.append(head)
        elif self._writable.is_set():
            self._write(head)

    def try_send(self, message: Message, payload: Sequence[Buffer] = ()) -> bool:
        """Write a small frame now, if the transport takes it; False if `send` would have to wait.

        Raises:
            RequestError, ConnectionResetError: as `send`.
        """
        return self._writable.is_set() and self._try_write(message, payload)

    def _try_write(self, message: Message, payload: Sequence[Buffer]) -> bool:
        size = sum([memoryview(part).nbytes for part in payload])
        if size > _ONE_WRITE_BYTES or self._bulk_lock.locked():
            return False
        self._write(b"".join((encode_head(message, size, self._max_payload_bytes), *payload)))
        return True

    async def send(self, message: Message, payload: Sequence[Buffer] = ()) -> None:
        """Write a whole frame; returns when the transport can take more and the payload's memory is free again.

        Raises:
            RequestError: if it is too large.
            ConnectionResetError: if the stream is closed or closes meanwhile.
        """
        if self._try_write(message, payload):
            if not self._writable.is_set():
                await self._drain()
            return
        parts = [memoryview(part).cast("B") for part in payload]
        head = encode_head(message, sum(part.nbytes for part in parts), self._max_payload_bytes)
        async with self._bulk_lock:
            await self._send_pieces(head, parts)
            await self._flush()
        # small messages that came meanwhile; nobody else can have begun a bulk frame before this line runs
        for waiting in self._after_bulk:
            self._write(waiting)
        self._after_bulk.clear()

    async def _send_pieces(self, head: bytes, parts: Sequence[memoryview]) -> None:
        self._write(head)
        for part in parts:
            for offset in range(0, part.nbytes, PIECE_BYTES):
                self._write(part[offset : offset + PIECE_BYTES])
                if not self._writable.is_set():
                    await self._drain()

    async def _flush(self) -> None:
        """Wait until the transport holds no more of our memory (uvloop keeps references, not copies)."""
        assert self._transport is not None
        self._transport.set_write_buffer_limits(high=0)
        try:
            if self._transport.get_write_buffer_size():
                await self._drain()
        finally:
            if not self._closed:
                self._transport.set_write_buffer_limits(high=_HIGH_WATER_BYTES)

    def _write(self, data: Buffer) -> None:
        if self._closed or self._transport is None:
            raise ConnectionResetError
        self.traffic.sent += len(data)
        self._transport.write(data)

    async def _drain(self) -> None:
        await self._writable.wait()
        if self._closed:
            raise ConnectionResetError

    # receiving ----------------------------------------------------------------------------------------------------

    def pause(self) -> None:
        """Read no further for now: the receiver is behind."""
        if self._reading:
            self._reading = False
            if self._transport is not None and not self._closed:
                self._transport.pause_reading()

    def resume(self) -> None:
        """Read on."""
        if not self._reading:
            self._reading = True
            self.last_read_s = self._loop.time()
            if self._transport is not None and not self._closed:
                self._transport.resume_reading()

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._decoder.buffer()

    def buffer_updated(self, nbytes: int) -> None:
        self.traffic.received += nbytes
        self._received(self._decoder.filled, nbytes)

    def eof_received(self) -> bool:
        self.close(_ENDED)
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self.close(_ENDED)
        self.lost.set()

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    def _received(self, take: Callable[[Came], list[Frame]], came: Came) -> None:
        self.last_read_s = self._loop.time()
        try:
            frames = take(came)
        except PeerIncompatible as exc:
            self.close(str(exc))
            return
        for frame in frames:
            self._on_frame(frame)

    def close(self, reason: str) -> None:
        """End the stream; what was queued is still sent. Idempotent."""
        if self._closed:
            return
        self._closed = True
        self._writable.set()
        if self._transport is not None:
            self._transport.close()
        self._on_closed(reason)

    def abort(self, reason: str) -> None:
        """End the stream and drop what could not be sent yet."""
        self.close(reason)
        if self._transport is not None:
            self._transport.abort()
