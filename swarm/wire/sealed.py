"""A plain TCP connection on which two nodes share a key: every write is one encrypted, authenticated record.

    u32 length | AES-256-GCM ciphertext and tag                (big-endian; the nonce counts records)

Each direction has a key of its own, so a record can be neither changed, repeated, left out nor sent back. Whoever lacks
the key can only break the connection.
"""

from __future__ import annotations

import asyncio
from typing import Protocol, cast

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from swarm.wire.frames import PIECE_BYTES, Buffer

KEY_BYTES = 32
_TAG_BYTES = 16
_LENGTH_BYTES = 4
_MOST_BYTES = PIECE_BYTES + _TAG_BYTES  # of one record
_PURPOSE = b"swarm shortcut, listener then dialler"


class Receiver(Protocol):
    """Who reads a connection."""

    def received(self, data: bytes) -> None:
        """The content of the next record."""

    def malformed(self, reason: str) -> None:
        """What came is no record of the other end."""

    def eof_received(self) -> bool | None: ...

    def connection_lost(self, exc: Exception | None) -> None: ...

    def pause_writing(self) -> None: ...

    def resume_writing(self) -> None: ...


class SealedConnection(asyncio.Protocol):
    """One end of a connection; a transport for `FrameStream`. Reads nothing until there is a receiver.

    Args:
        key: `KEY_BYTES` that both ends know, for this connection only.
        dialled: whether this end opened it.
    """

    def __init__(self, key: bytes, *, dialled: bool) -> None:
        pair = HKDF(algorithm=SHA256(), length=2 * KEY_BYTES, salt=None, info=_PURPOSE).derive(key)
        of_listener, of_dialler = AESGCM(pair[:KEY_BYTES]), AESGCM(pair[KEY_BYTES:])
        self._seal, self._unseal = (of_dialler, of_listener) if dialled else (of_listener, of_dialler)
        self._sent = 0
        self._opened = 0
        self._held = bytearray()
        self._receiver: Receiver | None = None
        self._transport: asyncio.Transport | None = None

    def attach(self, receiver: Receiver) -> None:
        """Begin to read, for `receiver`; until it says otherwise."""
        self._receiver = receiver
        self.resume_reading()
        del self._held[: self._open(self._held)]

    # as a transport -----------------------------------------------------------------------------------------------

    def write(self, data: Buffer) -> None:
        """Send one record of at most `PIECE_BYTES`; the memory is free again at once."""
        assert self._transport is not None
        sealed = self._seal.encrypt(_nonce(self._sent), data, None)
        self._sent += 1
        self._transport.write(len(sealed).to_bytes(_LENGTH_BYTES, "big") + sealed)

    def pause_reading(self) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()

    def set_write_buffer_limits(self, high: int) -> None:
        if self._transport is not None:
            self._transport.set_write_buffer_limits(high=high)

    def get_write_buffer_size(self) -> int:
        return 0 if self._transport is None else self._transport.get_write_buffer_size()

    def is_closing(self) -> bool:
        return self._transport is None or self._transport.is_closing()

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    # as a protocol ------------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        if self._receiver is None:
            self._transport.pause_reading()

    def data_received(self, data: bytes) -> None:
        if self._held or self._receiver is None:
            self._held += data
            del self._held[: self._open(self._held)]
        elif (begin := self._open(data)) < len(data):  # seldom: the usual read brings whole records
            self._held += data[begin:]

    def eof_received(self) -> bool | None:
        return self._receiver.eof_received() if self._receiver is not None else None

    def connection_lost(self, exc: Exception | None) -> None:
        if self._receiver is not None:
            self._receiver.connection_lost(exc)

    def pause_writing(self) -> None:
        if self._receiver is not None:
            self._receiver.pause_writing()

    def resume_writing(self) -> None:
        if self._receiver is not None:
            self._receiver.resume_writing()

    def _open(self, data: bytes | bytearray) -> int:
        """Hand on the records that are complete; where the first one begins that is not."""
        begin = 0
        while self._receiver is not None and len(data) - begin >= _LENGTH_BYTES:
            size = int.from_bytes(data[begin : begin + _LENGTH_BYTES], "big")
            if not _TAG_BYTES <= size <= _MOST_BYTES:
                self._receiver.malformed(f"a record of {size} bytes")
                break
            end = begin + _LENGTH_BYTES + size
            if len(data) < end:
                break
            try:
                content = self._unseal.decrypt(
                    _nonce(self._opened), bytes(data[begin + _LENGTH_BYTES : end]), None
                )
            except InvalidTag:
                self._receiver.malformed("a record that the other end did not make")
                break
            self._opened += 1
            begin = end
            self._receiver.received(content)
        return begin


def _nonce(count: int) -> bytes:
    return count.to_bytes(12, "big")
