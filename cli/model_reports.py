"""Which models a directory's records tell of, and what `swarm status` says about each."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from swarm.core.config import ModelConfig
from swarm.core.errors import SwarmUnavailable
from swarm.routing.records import PeerRecord, PeerState
from swarm.routing.status import StatusReport, summarise
from swarm.routing.view import SwarmView
from swarm.shards.checkpoint_index import CheckpointIndex
from swarm.wire.messages import PROTOCOL_VERSION


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
    uid = CheckpointIndex.open(ModelConfig(model)).uid
    return [r for r in records if r.model_uid == uid]


def _nothing(living: Sequence[PeerRecord], model: str | None) -> str:
    if model is None:
        return "this swarm serves no model: start a peer with `swarm serve MODEL --peers ...`"
    names = ", ".join(sorted({r.model_name or r.model_uid for r in living}))
    return f"nobody serves {model} in this swarm; " + (
        f"it serves {names}" if names else "it serves no model at all"
    )
