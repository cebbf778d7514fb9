"""Frames: how messages and tensors stand in a byte stream.

    u32 header length | u32 payload length | msgpack header | payload          (big-endian)

`FrameDecoder` does no I/O: it hands out the buffer into which the next bytes are read, and returns the frames that
became complete. Small frames are collected in one fixed buffer. A payload that does not fit there gets a buffer of its
own, into which the socket is read directly, and only after its header was validated and the tensors named in the header
were found to fill it exactly. Hence nobody can make a node allocate more than a valid message may carry.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

from msgspec import DecodeError, Struct, ValidationError
from msgspec.msgpack import Decoder, Encoder

from swarm.core.errors import PeerIncompatible, RequestError
from swarm.wire.message import Message, TensorMessage
from swarm.wire.messages import AnyMessage
from swarm.wire.strange_text import one_line
from swarm.wire.tensor_size import MOST_TIMES_CODED, both_nbytes

MAX_HEADER_BYTES = 64 << 10
MAX_PAYLOAD_BYTES = 256 << 20
PIECE_BYTES = 1 << 20

Buffer = bytes | bytearray | memoryview
_LENGTHS = struct.Struct(">II")
_SCRATCH_BYTES = 128 << 10
_ENCODER = Encoder()
_DECODER: Decoder[Message] = Decoder(AnyMessage)


class Frame(Struct, frozen=True):  # made without a call of Python
    """One received message with its payload."""

    message: Message
    payload: memoryview


def encode_head(message: Message, payload_bytes: int, max_payload_bytes: int = MAX_PAYLOAD_BYTES) -> bytes:
    """The bytes of a frame up to its payload.

    A message without tensors is read back, so that no node is ever sent what it must refuse; steps are made of what was
    checked before, and must not wait for it.

    Raises:
        RequestError: if the message or its payload is larger than a frame may be, or out of its bounds.
    """
    header = _ENCODER.encode(message)
    if len(header) > MAX_HEADER_BYTES:
        raise RequestError(f"a message header of {len(header)} bytes is over the limit of {MAX_HEADER_BYTES}")
    most_bytes = payload_bytes
    if isinstance(message, TensorMessage):
        if payload_bytes * MOST_TIMES_CODED > max_payload_bytes:
            most_bytes = max(payload_bytes, both_nbytes(message.tensors)[1])
    else:
        _read_back(message, header)
    if most_bytes > max_payload_bytes:
        raise RequestError(
            f"a message with {most_bytes} bytes of tensors is over the limit of {max_payload_bytes}: "
            "send fewer tokens at once"
        )
    return _LENGTHS.pack(len(header), payload_bytes) + header


def encode(
    message: Message, payload: Sequence[Buffer] = (), max_payload_bytes: int = MAX_PAYLOAD_BYTES
) -> bytes:
    """A whole frame in one piece.

    Raises:
        RequestError: if it is too large.
    """
    size = sum(memoryview(part).nbytes for part in payload)
    return b"".join((encode_head(message, size, max_payload_bytes), *payload))


class FrameDecoder:
    """Turns received bytes into frames.

    Use: read bytes into `buffer()`, then call `filled(count)` with how many came. After an exception the stream is
    beyond repair.
    """

    def __init__(self, max_payload_bytes: int = MAX_PAYLOAD_BYTES) -> None:
        self._max_payload_bytes = max_payload_bytes
        self._scratch = bytearray(_SCRATCH_BYTES)
        self._view = memoryview(self._scratch)
        self._begin = 0
        self._end = 0
        self._bulk: memoryview | None = None
        self._bulk_filled = 0
        self._bulk_message: Message | None = None

    @property
    def in_bulk(self) -> bool:
        """Whether a payload with a buffer of its own is under way."""
        return self._bulk is not None

    def buffer(self) -> memoryview:
        """Where the next bytes belong; never empty."""
        if self._bulk is not None:
            return self._bulk[self._bulk_filled :]
        return self._view[self._end :]

    def feed(self, data: Buffer) -> list[Frame]:
        """Take bytes that were read elsewhere.

        Raises:
            PeerIncompatible: as `filled`.
        """
        frames: list[Frame] = []
        rest = memoryview(data)
        if not self._end and self._bulk is None:  # the usual record is one whole frame
            frame, size = self._whole(rest)
            if frame is not None:
                frames.append(frame)
                rest = rest[size:]
        while rest.nbytes:
            room = self.buffer()
            count = min(room.nbytes, rest.nbytes)
            room[:count] = rest[:count]
            frames += self.filled(count)
            rest = rest[count:]
        return frames

    def filled(self, count: int) -> list[Frame]:
        """Account for `count` bytes read into `buffer()`; the frames that are complete now.

        Raises:
            PeerIncompatible: if the bytes are no valid frame.
        """
        if self._bulk is not None:
            return self._bulk_filled_by(count)
        self._end += count
        frames: list[Frame] = []
        while (frame := self._next_small()) is not None:
            frames.append(frame)
        self._make_room()
        return frames

    def _bulk_filled_by(self, count: int) -> list[Frame]:
        assert self._bulk is not None
        assert self._bulk_message is not None
        self._bulk_filled += count
        if self._bulk_filled < self._bulk.nbytes:
            return []
        frame = Frame(self._bulk_message, self._bulk)
        self._bulk = self._bulk_message = None
        return [frame]

    def _next_small(self) -> Frame | None:
        """The next frame that lies complete in the scratch buffer; starts a bulk payload where one begins."""
        left = self._view[self._begin : self._end]
        if left.nbytes < _LENGTHS.size or self._bulk is not None:
            return None
        frame, size = self._whole(left)
        self._begin += size
        if frame is None:
            self._start_bulk(left)
        return frame

    def _whole(self, view: memoryview) -> tuple[Frame | None, int]:
        """The frame with which `view` begins, if it is all there, and how many bytes it has."""
        if view.nbytes < _LENGTHS.size:
            return None, 0
        header_bytes, payload_bytes = _LENGTHS.unpack_from(view)
        self._check_lengths(header_bytes, payload_bytes)
        body = _LENGTHS.size + header_bytes
        end = body + payload_bytes
        if end > view.nbytes:
            return None, 0
        message = decode_header(view[_LENGTHS.size : body], payload_bytes)
        return Frame(message, memoryview(bytearray(view[body:end]))), end

    def _check_lengths(self, header_bytes: int, payload_bytes: int) -> None:
        if not 0 < header_bytes <= MAX_HEADER_BYTES:
            raise PeerIncompatible(f"malformed frame: a header of {header_bytes} bytes")
        if payload_bytes > self._max_payload_bytes:
            raise PeerIncompatible(
                f"malformed frame: a payload of {payload_bytes} bytes is over the limit of {self._max_payload_bytes}"
            )

    def _start_bulk(self, view: memoryview) -> None:
        """Give the payload of the frame with which `view` begins a buffer, if its header is there and it needs one."""
        header_bytes, payload_bytes = _LENGTHS.unpack_from(view)
        body = _LENGTHS.size + header_bytes
        if body > view.nbytes or body + payload_bytes <= _SCRATCH_BYTES:
            return
        self._bulk_message = decode_header(view[_LENGTHS.size : body], payload_bytes)
        first = view[body:]
        self._bulk = memoryview(bytearray(payload_bytes))
        self._bulk[: first.nbytes] = first
        self._bulk_filled = first.nbytes
        self._begin = self._end

    def _make_room(self) -> None:
        """Move what is left of an incomplete frame to the front."""
        left = self._end - self._begin
        if self._begin and left:
            self._scratch[:left] = self._scratch[self._begin : self._end]
        self._begin, self._end = 0, left


def decode_header(header: Buffer, payload_bytes: int) -> Message:
    """The message in a header, checked against the size of its payload.

    Raises:
        PeerIncompatible: if it is no valid message, or its tensors do not fill the payload exactly.
    """
    try:
        message = _DECODER.decode(header)
    except ValidationError as exc:
        raise PeerIncompatible(f"malformed message: {one_line(str(exc), 200)}") from exc
    except (DecodeError, ValueError, RecursionError) as exc:
        raise PeerIncompatible(f"malformed header: {type(exc).__name__}") from exc
    announced, decoded = both_nbytes(message.tensors) if isinstance(message, TensorMessage) else (0, 0)
    if announced != payload_bytes:
        raise PeerIncompatible(
            f"malformed message: tensors of {announced} bytes, but a payload of {payload_bytes}"
        )
    if decoded > MAX_PAYLOAD_BYTES:
        raise PeerIncompatible(
            f"malformed message: tensors that decode into more than {MAX_PAYLOAD_BYTES} bytes"
        )
    return message


def _read_back(message: Message, header: bytes) -> None:
    try:
        _DECODER.decode(header)
    except ValidationError as exc:
        name = type(message).__name__
        raise RequestError(f"{name} cannot be sent: {one_line(str(exc), 200)}") from exc
