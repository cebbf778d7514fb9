"""Plain TCP between two nodes that libp2p has introduced to each other, so that steps need not go through two p2pd.

    dialler                                     listener
    opens the libp2p stream `swarm/shortcut` -> makes a key and a token for this peer
    connects to the port, shows the token    <- port, token, key
    Hello, sealed with the key               -> Hello, sealed with the key

libp2p has authenticated both ends and encrypted what they said: whoever knows the key is the peer it was made for.
Where the port cannot be reached, the link runs over a libp2p stream.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Callable, Sequence
from typing import cast

from swarm.core.errors import NodeError, PeerIncompatible
from swarm.wire.frames import FrameDecoder, encode
from swarm.wire.message import SHORTCUT_TOKEN_BYTES
from swarm.wire.messages import Shortcut
from swarm.wire.sealed import KEY_BYTES, SealedConnection

__all__ = ["ShortcutListener", "dial_shortcut", "read_shortcut"]

logger = logging.getLogger(__name__)

OFFER_S = 10.0
MAX_OFFERS = 256
MAX_ARRIVALS = 64
CONNECT_S = 0.7
_READ_BYTES = 4096

OnConnection = Callable[[str, SealedConnection], None]


class ShortcutListener:
    """Hands connections of peers that were offered one to `on_connection(peer_id, connection)`."""

    def __init__(self, on_connection: OnConnection) -> None:
        self._on_connection = on_connection
        self._offers: dict[bytes, tuple[str, bytes]] = {}
        self._arrivals = 0
        self._server: asyncio.Server

    @classmethod
    async def start(cls, host: str, port: int, on_connection: OnConnection) -> ShortcutListener:
        """Listen; port 0 means any.

        Raises:
            NodeError: if the port is in use, or cannot be bound.
        """
        listener = cls(on_connection)
        loop = asyncio.get_running_loop()
        try:
            listener._server = await loop.create_server(lambda: _Arrival(listener), host, port)
        except OSError as exc:
            raise NodeError(
                f"cannot listen on port {port} for direct links: {exc.strerror or exc}; choose another --direct-port"
            ) from exc
        return listener

    @property
    def port(self) -> int:
        return int(self._server.sockets[0].getsockname()[1])

    def offer(self, peer_id: str) -> bytes:
        """A shortcut for this peer, as it is sent; it can be used once, for a few seconds."""
        if len(self._offers) >= MAX_OFFERS:
            self._offers.pop(next(iter(self._offers)))
        token, key = secrets.token_bytes(SHORTCUT_TOKEN_BYTES), secrets.token_bytes(KEY_BYTES)
        self._offers[token] = peer_id, key
        asyncio.get_running_loop().call_later(OFFER_S, self._offers.pop, token, None)
        return encode(Shortcut(port=self.port, token=token, key=key))

    def close(self) -> None:
        """Listen no longer; connections that were handed over stay."""
        self._server.close()
        self._offers.clear()

    def begin(self) -> bool:
        """Somebody has connected; False if too many have who show no token."""
        self._arrivals += 1
        return self._arrivals <= MAX_ARRIVALS

    def end(self) -> None:
        """Somebody who had connected has shown a token, or gone."""
        self._arrivals -= 1

    def take(self, token: bytes, transport: asyncio.Transport) -> SealedConnection | None:
        """The connection of the peer to whom this token was offered; None if it was not."""
        offered = self._offers.pop(token, None)
        if offered is None:
            return None
        peer_id, key = offered
        connection = SealedConnection(key, dialled=False)
        transport.set_protocol(connection)
        connection.connection_made(transport)
        self._on_connection(peer_id, connection)
        return connection


class _Arrival(asyncio.Protocol):
    """A connection that has yet to show its token."""

    def __init__(self, listener: ShortcutListener) -> None:
        self._listener = listener
        self._shown = b""
        self._transport: asyncio.Transport
        self._patience: asyncio.TimerHandle

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._patience = asyncio.get_running_loop().call_later(OFFER_S, self._transport.abort)
        if not self._listener.begin():
            self._transport.abort()

    def data_received(self, data: bytes) -> None:
        self._shown += data
        if len(self._shown) < SHORTCUT_TOKEN_BYTES:
            return
        token, rest = self._shown[:SHORTCUT_TOKEN_BYTES], self._shown[SHORTCUT_TOKEN_BYTES:]
        connection = self._listener.take(token, self._transport)
        if connection is None:
            self._transport.abort()
            return
        self._patience.cancel()
        self._listener.end()
        connection.data_received(rest)

    def connection_lost(self, exc: Exception | None) -> None:
        self._patience.cancel()
        self._listener.end()


async def read_shortcut(reader: asyncio.StreamReader) -> Shortcut:
    """What the listener has sent.

    Raises:
        PeerIncompatible: if it is no shortcut.
        EOFError: if it ends before.
    """
    decoder = FrameDecoder(max_payload_bytes=0)
    while data := await reader.read(_READ_BYTES):
        for frame in decoder.feed(data):
            if isinstance(frame.message, Shortcut):
                return frame.message
            raise PeerIncompatible(f"malformed: {type(frame.message).__name__} instead of a shortcut")
    raise EOFError("no shortcut came")


async def dial_shortcut(shortcut: Shortcut, hosts: Sequence[str]) -> SealedConnection | None:
    """A connection to the first of `hosts` that has the port; None if none can be reached in time."""
    loop = asyncio.get_running_loop()
    for host in hosts:
        try:
            async with asyncio.timeout(CONNECT_S):
                transport, connection = await loop.create_connection(
                    lambda: SealedConnection(shortcut.key, dialled=True), host, shortcut.port
                )
        except (OSError, TimeoutError) as exc:
            logger.debug("no shortcut to %s port %d: %s", host, shortcut.port, exc)
            continue
        transport.write(shortcut.token)
        return connection
    return None
