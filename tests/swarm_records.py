"""What the peers of a running swarm announce, read from its DHT by a node that joins for the moment."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from swarm.core.config import NodeConfig
from swarm.routing.announcement import claims, decode
from swarm.routing.records import BUCKETS, PeerRecord, directory_key
from swarm.security.identity import Identity
from swarm.wire.link import Link
from swarm.wire.message import Message
from swarm.wire.node import Node
from tests.waiting import wait_for


def records(addresses: Sequence[str], model: str | None = None) -> list[PeerRecord]:
    """Announcements of all peers, those that have left included; of one model (its name or uid), if given."""
    found = asyncio.run(_read(tuple(addresses)))
    return [record for record in found if model in (None, record.model_name, record.model_uid)]


def wait_all_free(addresses: Sequence[str], deadline_s: float = 10.0) -> list[PeerRecord]:
    """Wait until every peer announces that its whole cache is free and no session is open."""

    def idle() -> list[PeerRecord]:
        found = records(addresses)
        return found if all(r.free_tokens == r.total_tokens and r.sessions == 0 for r in found) else []

    return wait_for(idle, deadline_s, "all cache of all peers is free")


async def _read(addresses: tuple[str, ...]) -> list[PeerRecord]:
    config = NodeConfig(peers=addresses, host="127.0.0.1", listen=False)
    node = await Node.start(config, Identity.ephemeral(), handler=_ignore, inspect=claims)
    try:
        bodies = await node.directory.fetch([directory_key(bucket) for bucket in range(BUCKETS)])
    finally:
        await node.stop()
    return [decode(body) for body in bodies]


async def _ignore(link: Link, message: Message, payload: memoryview) -> None:
    """Nobody has anything to say to a node that only looks."""
