"""What peers did between two looks at a swarm."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from swarm.core.span import Span
from swarm.routing.records import PeerState
from swarm.routing.status import PeerRow, StatusReport

Deed = Literal["joined", "moved", "draining", "left"]


@dataclass(frozen=True, slots=True)
class Happening:
    """One thing that a peer did; `before` is where it was, if it has moved."""

    deed: Deed
    peer: PeerRow
    before: Span | None = None

    def __str__(self) -> str:
        name = self.peer.name or self.peer.peer_id[-8:]
        match self.deed:
            case "moved":
                return f"{name} moves {self.before} -> {self.peer.span}"
            case "left":
                return f"{name} has left layers {self.peer.span}"
            case "draining":
                return f"{name} is leaving layers {self.peer.span}"
        return f"{name} has joined at {self.peer.span}"


def happenings(before: StatusReport, after: StatusReport) -> Iterator[Happening]:
    """Of the peers of one model, first those that are there."""
    known = {row.peer_id: row for row in before.peers}
    there = {row.peer_id for row in after.peers}
    for row in after.peers:
        old = known.get(row.peer_id)
        if old is None:
            yield Happening("joined", row)
        elif old.span != row.span:
            yield Happening("moved", row, old.span)
        if row.state is PeerState.DRAINING and (old is None or old.state is not PeerState.DRAINING):
            yield Happening("draining", row)
    for row in before.peers:
        if row.peer_id not in there:
            yield Happening("left", row)
