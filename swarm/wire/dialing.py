"""Reaching another node through p2pd, whose errors become ours here."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from swarm.core.errors import PeerTimeout, PeerUnreachable
from swarm.wire.address import host_in, is_ed25519_peer_id, is_multiaddr, peer_id_in, without_peer_id
from swarm.wire.daemon import daemon_errors
from swarm.wire.hivemind_parts import Multiaddr, PeerID

_ASK_S = 2.0

Stream = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def reach(p2p: Any, peer_id: str, addresses: Sequence[str], timeout_s: float) -> None:
    """Be connected with a node; addresses that are malformed or of another node are ignored.

    Raises:
        PeerUnreachable: if it cannot be dialled.
        PeerTimeout: if that takes too long.
    """
    target = _target(peer_id)
    if usable := _usable(peer_id, addresses):
        async with _errors_of_p2pd(peer_id, timeout_s):
            await p2p._client.connect(target, usable)


async def open_stream(p2p: Any, peer_id: str, name: str, timeout_s: float) -> Stream:
    """Open the stream `name` to a node.

    Raises:
        PeerUnreachable: if it cannot be dialled, or knows no such stream.
        PeerTimeout: if that takes too long.
    """
    target = _target(peer_id)
    async with _errors_of_p2pd(peer_id, timeout_s):
        _, reader, writer = await p2p.call_binary_stream_handler(target, name)
    return reader, writer


@asynccontextmanager
async def _errors_of_p2pd(peer_id: str, timeout_s: float) -> AsyncIterator[None]:
    try:
        async with asyncio.timeout(timeout_s):
            yield
    except TimeoutError as exc:
        raise PeerTimeout(f"peer {peer_id} could not be dialled within {timeout_s:g} s", peer_id) from exc
    except daemon_errors() as exc:
        words = " ".join(str(exc).split())[:300] or type(exc).__name__
        raise PeerUnreachable(f"peer {peer_id} cannot be dialled: {words}", peer_id) from exc


def _target(peer_id: str) -> Any:
    if not is_ed25519_peer_id(peer_id):
        raise PeerUnreachable(f"{peer_id!r} is not the id of a peer", peer_id)
    return PeerID.from_base58(peer_id)


def _usable(peer_id: str, addresses: Sequence[str]) -> list[Any]:
    return [
        Multiaddr(without_peer_id(address))
        for address in addresses
        if peer_id_in(address) in (None, peer_id)
        and is_multiaddr(address)
        and not address.startswith("/p2p/")
    ]


async def hosts_of(p2p: Any, peer_id: str) -> list[str]:
    """The IP addresses over which this node is connected with another one right now.

    Raises:
        PeerUnreachable, PeerTimeout: if p2pd does not answer.
    """
    async with _errors_of_p2pd(peer_id, _ASK_S):
        connected = await p2p.list_peers()
    addresses = [str(address) for info in connected if str(info.peer_id) == peer_id for address in info.addrs]
    return list(dict.fromkeys(host for host in map(host_in, addresses) if host is not None))
