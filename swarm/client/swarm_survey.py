"""Reads the directory of a swarm once or many times."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress

from swarm.client.model_reports import reports_of
from swarm.core.config import NodeConfig
from swarm.core.errors import SwarmUnavailable
from swarm.routing.announcement import claims, decode
from swarm.routing.records import BUCKETS, MAX_LEASE_S, PeerState, directory_key
from swarm.routing.status import StatusReport
from swarm.security.identity import Identity
from swarm.wire.link import Link
from swarm.wire.message import Message
from swarm.wire.node import Node

_LOOK_AGAIN_S = 0.2


class SwarmSurvey:
    """A node that only looks."""

    def __init__(self, node: Node) -> None:
        self._node = node

    @classmethod
    async def start(cls, peers: Sequence[str]) -> SwarmSurvey:
        """Join the swarm of `peers`.

        Raises:
            NodeError: none of them can be reached.
        """
        config = NodeConfig(peers=tuple(peers), listen=False)
        return cls(await Node.start(config, Identity.ephemeral(), handler=_ignore, inspect=claims))

    async def stop(self) -> None:
        await self._node.stop()

    async def look(self, model: str | None) -> list[StatusReport]:
        """Reports of every model of the swarm, or of those that `model` names.

        Raises:
            SwarmUnavailable: there is none.
        """
        bodies = await self._node.directory.fetch([directory_key(bucket) for bucket in range(BUCKETS)])
        records = [decode(body) for body in bodies]
        return reports_of(records, self._node.directory.now(), model)

    async def look_until(self, model: str, peers: int) -> StatusReport:
        """The report of `model` once it shows so many online peers.

        Raises:
            SwarmUnavailable: they did not appear within the life of an announcement.
        """
        try:
            async with asyncio.timeout(MAX_LEASE_S):
                while True:
                    with suppress(SwarmUnavailable):
                        [report] = await self.look(model)
                        if sum(peer.state is PeerState.ONLINE for peer in report.peers) >= peers:
                            return report
                    await asyncio.sleep(_LOOK_AGAIN_S)
        except TimeoutError as exc:
            raise SwarmUnavailable(
                f"{peers} peers of {model} did not appear within {MAX_LEASE_S:g} s"
            ) from exc


async def _ignore(link: Link, message: Message, payload: memoryview) -> None:
    """Nobody has anything to say to a node that only looks."""
