"""What happened in the swarm between two looks at it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from swarm.core.span import Span
from swarm.gateway.sight import Sight
from swarm.routing.happenings import happenings

Kind = Literal[
    "joined",
    "left",
    "moved",
    "draining",
    "failing",
    "recovered",
    "failover",
    "handover",
    "broken",
    "complete",
]


@dataclass(frozen=True, slots=True)
class Change:
    """One thing that happened, to a peer or to the swarm as a whole.

    Attributes:
        peer_id, name: the peer; empty if it is about the swarm.
        layers: what the peer serves now, or what is missing first.
        before: what it served before it moved.
        count: how many times.
        reason: in words, where somebody gave one.
    """

    kind: Kind
    peer_id: str = ""
    name: str = ""
    layers: Span | None = None
    before: Span | None = None
    count: int = 1
    reason: str = ""

    def as_json(self) -> dict[str, Any]:
        return {
            "kind": self.kind,
            "peer_id": self.peer_id,
            "name": self.name,
            "layers": _pair(self.layers),
            "before": _pair(self.before),
            "count": self.count,
            "reason": self.reason,
        }


def changes(before: Sight, after: Sight) -> list[Change]:
    """In the order in which they are told: peers first, then what that means for the swarm."""
    return [*_of_peers(before, after), *_of_answers(before, after), *_of_swarm(before, after)]


def _of_peers(before: Sight, after: Sight) -> Iterator[Change]:
    for done in happenings(before.outlook.report, after.outlook.report):
        yield Change(done.deed, done.peer.peer_id, done.peer.name, done.peer.span, done.before)
    was_failing, is_failing = before.outlook.failing, after.outlook.failing
    for row in after.outlook.report.peers:
        if row.peer_id in is_failing and row.peer_id not in was_failing:
            yield Change("failing", row.peer_id, row.name, row.span, reason=is_failing[row.peer_id])
        elif row.peer_id in was_failing and row.peer_id not in is_failing:
            yield Change("recovered", row.peer_id, row.name, row.span)


def _of_answers(before: Sight, after: Sight) -> Iterator[Change]:
    if failovers := after.work.failovers - before.work.failovers:
        yield Change("failover", count=failovers)
    if handovers := after.work.handovers - before.work.handovers:
        yield Change("handover", count=handovers)


def _of_swarm(before: Sight, after: Sight) -> Iterator[Change]:
    was, now = before.outlook.report, after.outlook.report
    if was.complete and not now.complete:
        yield Change("broken", layers=now.missing[0] if now.missing else None)
    elif now.complete and not was.complete:
        yield Change("complete")


def _pair(span: Span | None) -> list[int] | None:
    return None if span is None else [span.start, span.end]
