"""Opening a stream to another node: p2pd's errors become ours here."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from swarm.core.errors import PeerTimeout, PeerUnreachable
from swarm.wire.address import is_ed25519_peer_id, is_multiaddr, peer_id_in, without_peer_id
from swarm.wire.daemon import daemon_errors
from swarm.wire.hivemind_parts import Multiaddr, PeerID

Stream = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def open_stream(
    p2p: Any, peer_id: str, addresses: Sequence[str], name: str, timeout_s: float
) -> Stream:
    """Open the stream `name` to a node; addresses that are malformed or of another node are ignored.

    Raises:
        PeerUnreachable: if it cannot be dialled, or knows no such stream.
        PeerTimeout: if that takes too long.
    """
    if not is_ed25519_peer_id(peer_id):
        raise PeerUnreachable(f"{peer_id!r} is not the id of a peer", peer_id)
    target = PeerID.from_base58(peer_id)
    try:
        async with asyncio.timeout(timeout_s):
            if usable := _usable(peer_id, addresses):
                await p2p._client.connect(target, usable)
            _, reader, writer = await p2p.call_binary_stream_handler(target, name)
    except TimeoutError as exc:
        raise PeerTimeout(f"peer {peer_id} could not be dialled within {timeout_s:g} s", peer_id) from exc
    except daemon_errors() as exc:
        words = " ".join(str(exc).split())[:300] or type(exc).__name__
        raise PeerUnreachable(f"peer {peer_id} cannot be dialled: {words}", peer_id) from exc
    return reader, writer


def _usable(peer_id: str, addresses: Sequence[str]) -> list[Any]:
    return [
        Multiaddr(without_peer_id(address))
        for address in addresses
        if peer_id_in(address) in (None, peer_id)
        and is_multiaddr(address)
        and not address.startswith("/p2p/")
    ]
