"""Reads the directory of a swarm once or many times, for `swarm status`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from swarm.core.config import ModelConfig, NodeConfig
from swarm.core.errors import SwarmUnavailable
from swarm.routing.announcement import claims, decode
from swarm.routing.records import BUCKETS, PeerRecord, PeerState, directory_key
from swarm.routing.status import StatusReport, summarise
from swarm.routing.view import SwarmView
from swarm.security.identity import Identity
from swarm.wire.link import Link
from swarm.wire.messages import PROTOCOL_VERSION, Message
from swarm.wire.node import Node


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


def reports_of(records: Iterable[PeerRecord], now: float, model: str | None) -> list[StatusReport]:
    """One report per model that somebody serves now, by name.

    Raises:
        SwarmUnavailable: nobody serves `model`, or anything.
    """
    living = [r for r in records if r.expires_at > now and r.state is not PeerState.LEFT]
    wanted = living if model is None else _matching(living, model)
    if not wanted:
        raise SwarmUnavailable(_nothing(living, model))
    uids = sorted({(r.model_name, r.model_uid) for r in wanted})
    views = (
        SwarmView.of(living, now=now, model_uid=uid, protocol=PROTOCOL_VERSION)
        for uid in dict.fromkeys(uid for _, uid in uids)
    )
    return [summarise(view) for view in views]


def _matching(records: Sequence[PeerRecord], model: str) -> list[PeerRecord]:
    """By announced name, by the beginning of the uid, or, for a local folder, by the checkpoint itself."""
    named = [
        r for r in records if r.model_name == model or (len(model) >= 8 and r.model_uid.startswith(model))
    ]
    if named or not Path(model).is_dir():
        return named
    from swarm.shards.source import ModelSource  # imports transformers: seconds

    uid = ModelSource.open(ModelConfig(model)).uid
    return [r for r in records if r.model_uid == uid]


def _nothing(living: Sequence[PeerRecord], model: str | None) -> str:
    if model is None:
        return "this swarm serves no model: start a peer with `swarm serve MODEL --peers ...`"
    names = ", ".join(sorted({r.model_name or r.model_uid for r in living}))
    return f"nobody serves {model} in this swarm; " + (
        f"it serves {names}" if names else "it serves no model at all"
    )


async def _ignore(link: Link, message: Message, payload: memoryview) -> None:
    """Nobody has anything to say to a node that only looks."""
