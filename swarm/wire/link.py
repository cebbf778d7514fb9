"""A link: one long-lived stream between two nodes, shared by everything they have to say to each other.

    GREETING --Hello of the same version--> OPEN --close, end of stream, silence, malformed frame--> CLOSED
        \\--Hello of another version, or none in time-----------------------------------------------> CLOSED

Messages are handled in the order in which they came, one at a time. Pings, pongs and answers to requests do not wait
for their turn: they are dealt with in the callback that read them.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from enum import Enum
from functools import partial
from time import perf_counter

from msgspec.structs import replace

from swarm.core.errors import PeerError, PeerIncompatible, PeerTimeout, PeerUnreachable, SwarmError
from swarm.wire.bandwidth import Bandwidth
from swarm.wire.control_messages import Done, Failed, Request
from swarm.wire.failures import failed_of
from swarm.wire.frame_queue import FrameQueue
from swarm.wire.frames import MAX_PAYLOAD_BYTES, Buffer, Frame, encode_head
from swarm.wire.message import Message, TensorMessage
from swarm.wire.messages import Hello, Ping, Pong
from swarm.wire.pending import PendingRequests
from swarm.wire.pulse import Pulse
from swarm.wire.sealed import SealedConnection
from swarm.wire.stream import FrameStream
from swarm.wire.traffic import Traffic

logger = logging.getLogger(__name__)

Handler = Callable[["Link", Message, memoryview], Awaitable[None] | None]
"""Deals with a message: at once (None), or by what it returns, which is awaited before the link's next message."""


Source = tuple[asyncio.StreamReader, asyncio.StreamWriter] | SealedConnection


class LinkState(Enum):
    """See the head of this file."""

    GREETING = "greeting"
    OPEN = "open"
    CLOSED = "closed"


class Link:
    """One stream to the node `peer_id`. Made by `swarm.wire.node`.

    Attributes:
        peer_id: the node at the other end, authenticated by libp2p.
        dialled: whether this end opened the stream.
        direct: whether it is a connection of our own, past p2pd.
        rtt_s: smoothed round-trip time of pings; None until the first pong.
        close_reason: why the link ended, in words; empty while it is open.
    """

    def __init__(
        self,
        peer_id: str,
        *,
        dialled: bool,
        handler: Handler,
        hello: Hello,
        max_payload_bytes: int = MAX_PAYLOAD_BYTES,
        bandwidth: Bandwidth | None = None,
    ) -> None:
        self.peer_id = peer_id
        self.dialled = dialled
        self.direct = False
        self.close_reason = ""
        self._hello = hello
        self._loop = asyncio.get_running_loop()
        self._state = LinkState.GREETING
        self._greeted: asyncio.Future[None] = self._loop.create_future()
        self._stream = FrameStream(
            on_frame=self._on_frame, on_closed=self._on_closed, max_payload_bytes=max_payload_bytes
        )
        self._queue = FrameQueue(partial(handler, self), self._report, self._read_on_or_pause)
        self._pending = PendingRequests(peer_id)
        self._pulse = Pulse(self._stream, bandwidth or Bandwidth())
        self._close_callbacks: list[Callable[[Link], None]] = []

    def __repr__(self) -> str:
        rtt = "?" if self.rtt_s is None else f"{self.rtt_s * 1e3:.1f} ms"
        return f"<Link {self._state.value} to {self.peer_id}, {rtt}>"

    @property
    def rtt_s(self) -> float | None:
        return self._pulse.rtt_s

    @property
    def traffic(self) -> Traffic:
        """Bytes so far."""
        return self._stream.traffic

    @property
    def closed(self) -> bool:
        return self._state is LinkState.CLOSED

    def on_close(self, callback: Callable[[Link], None]) -> None:
        """Call `callback` once when the link has closed; at once if it is closed already."""
        if self.closed:
            callback(self)
        else:
            self._close_callbacks.append(callback)

    async def greet(self, source: Source, timeout_s: float) -> None:
        """Take over a fresh stream or connection and exchange Hellos.

        Raises:
            PeerIncompatible: if the other end speaks another protocol version, or no protocol of ours.
            PeerTimeout: if it says nothing.
            PeerUnreachable: if it hangs up.
        """
        hello = encode_head(self._hello, 0)  # sent before what came early is read, and perhaps answered
        if isinstance(source, SealedConnection):
            source.write(hello)
            self._stream.attach(source)
        else:
            reader, writer = source
            writer.write(hello)
            await self._stream.take_over(reader, writer)
        self.direct = isinstance(source, SealedConnection)
        try:
            async with asyncio.timeout(timeout_s):
                await self._greeted
        except TimeoutError as exc:
            self._stream.close("no hello in time")
            raise PeerTimeout(
                f"peer {self.peer_id} did not greet within {timeout_s:g} s", self.peer_id
            ) from exc
        except PeerIncompatible:
            await self._linger(timeout_s)
            raise
        except asyncio.CancelledError:
            self._stream.close("nobody waits for this link any more")
            raise

    async def run(self) -> None:
        """Hand incoming messages to the handler, one after the other, until the link has closed and none is left."""
        await self._queue.run()

    async def send(self, message: Message, payload: Sequence[Buffer] = ()) -> None:
        """Send one message; frames never interleave. Returns when the payload's memory may be used again.

        Raises:
            PeerUnreachable: if the link is closed or closes meanwhile.
            RequestError: if the message is larger than a frame may be.
        """
        before, began_s = self.traffic.sent, perf_counter()
        try:
            await self._stream.send(message, payload)
        except ConnectionResetError as exc:
            raise self._gone() from exc
        self._pulse.has_sent(self.traffic.sent - before, began_s)

    def try_send(self, message: Message, payload: Sequence[Buffer] = ()) -> bool:
        """Send a small message now, if nothing is in its way; False if `send` would have to wait.

        Raises:
            PeerUnreachable, RequestError: as `send`.
        """
        stream, began_s = self._stream, perf_counter()
        before = stream.traffic.sent
        try:
            sent = stream.try_send(message, payload)
        except ConnectionResetError as exc:
            raise self._gone() from exc
        self._pulse.has_sent(stream.traffic.sent - before, began_s)
        return sent

    async def request(self, message: Request, timeout_s: float) -> Done:
        """Send a control message and wait for its answer; the link fills in the request number.

        Raises:
            PeerBusy, SessionLost, PeerIncompatible, RequestError, PeerError: as the peer answered.
            PeerTimeout: if it did not answer in time.
            PeerUnreachable: if the link is closed or closes meanwhile.
        """
        if self.closed:
            raise self._gone()
        number, answer = self._pending.begin()
        try:
            async with asyncio.timeout(timeout_s):
                await self.send(replace(message, request=number))
                return await answer
        except TimeoutError as exc:
            kind = type(message).__name__
            raise PeerTimeout(
                f"peer {self.peer_id} did not answer {kind} within {timeout_s:g} s", self.peer_id
            ) from exc
        finally:
            self._pending.end(number)

    async def close(self, reason: str = "closed here") -> None:
        """End the link after sending what is queued; idempotent."""
        self._stream.close(reason)

    def beat(self, silence_s: float) -> None:
        """Called about once a second: sends a ping, and closes the link if nothing came for `silence_s`."""
        if self._state is not LinkState.OPEN:
            return
        now = self._loop.time()
        if self._stream.reading and now - self._stream.last_read_s > silence_s:
            self._stream.abort(f"nothing came for {silence_s:g} s")
            return
        self._pulse.beat()

    # receiving ----------------------------------------------------------------------------------------------------

    def _on_frame(self, frame: Frame) -> None:
        message = frame.message
        if self._state is not LinkState.OPEN:
            self._on_greeting(message)
        elif isinstance(message, TensorMessage):
            self._queue.put(frame)
        elif isinstance(message, Ping):
            self._pulse.answer(message)
        elif isinstance(message, Pong):
            self._pulse.take(message)
        elif isinstance(message, Done | Failed):
            self._pending.settle(message)
        elif isinstance(message, Hello):
            self._stream.close("malformed: a second hello")
        else:
            self._queue.put(frame)

    def _read_on_or_pause(self, is_full: bool) -> None:
        if is_full:
            self._stream.pause()
        else:
            self._stream.resume()

    def _on_greeting(self, message: Message) -> None:
        if self._state is LinkState.CLOSED or self._greeted.done():
            return
        if not isinstance(message, Hello):
            self._stream.close(f"malformed: {type(message).__name__} before hello")
        elif message.protocol != self._hello.protocol:
            self._greeted.set_exception(
                PeerIncompatible(
                    f"peer {self.peer_id} speaks protocol version {message.protocol}, "
                    f"this node speaks {self._hello.protocol}: upgrade the older one",
                    self.peer_id,
                )
            )
        else:
            self._state = LinkState.OPEN
            self._greeted.set_result(None)

    async def _report(self, frame: Frame, raised: Exception) -> None:
        """A message could not be dealt with: whoever waits for an answer gets to know."""
        kind = type(frame.message).__name__
        if isinstance(raised, SwarmError):
            error: SwarmError = raised
        else:
            logger.error("handling %s from %s failed", kind, self.peer_id, exc_info=raised)
            error = PeerError("internal error, see the peer's log")
        if isinstance(frame.message, Request):
            with suppress(PeerUnreachable):
                await self.send(failed_of(frame.message.request, error))
        else:
            logger.warning("%s from %s was dropped: %s", kind, self.peer_id, error)

    # closing ------------------------------------------------------------------------------------------------------

    async def _linger(self, timeout_s: float) -> None:
        """Let the other end read our Hello before the stream goes away (p2pd drops unread bytes at a close)."""
        if not self.dialled:
            with suppress(TimeoutError):
                async with asyncio.timeout(timeout_s):
                    await self._stream.lost.wait()
        self._stream.close("other protocol version")

    def _on_closed(self, reason: str) -> None:
        self._state = LinkState.CLOSED
        self.close_reason = reason
        if not self._greeted.done():
            self._greeted.set_exception(self._gone())
        self._pending.fail(self._gone())
        self._queue.close()
        callbacks, self._close_callbacks = self._close_callbacks, []
        for callback in callbacks:
            callback(self)

    def _gone(self) -> PeerUnreachable:
        return PeerUnreachable(
            f"the link to peer {self.peer_id} is closed: {self.close_reason}", self.peer_id
        )
