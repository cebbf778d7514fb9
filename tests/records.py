"""Announcements for tests: valid ones from few words."""

from __future__ import annotations

from typing import Any

from swarm.core.span import Span
from swarm.routing.placement import Newcomer, join
from swarm.routing.records import PeerRecord
from swarm.routing.seats import Board
from swarm.routing.view import SwarmView

MODEL = "model-under-test"
NOW = 1000.0


def make_record(
    peer_id: str = "peer", span: tuple[int, int] = (0, 4), layers: int = 12, **fields: Any
) -> PeerRecord:
    """An online float32 peer with room for 1,000 token rows, issued at `NOW` for 30 s, changed by `fields`."""
    issued_at = fields.pop("issued_at", NOW)
    values: dict[str, Any] = {
        "protocol": 1,
        "peer_id": peer_id,
        "model_uid": MODEL,
        "layers": layers,
        "start": span[0],
        "end": span[1],
        "state": "online",
        "precision": "float32",
        "free_tokens": 1000,
        "total_tokens": 1000,
        "issued_at": issued_at,
        "expires_at": issued_at + 30.0,
    }
    return PeerRecord(**(values | fields))


def make_view(*records: PeerRecord, now: float = NOW) -> SwarmView:
    """The view of these records as a node of protocol 1 has it."""
    return SwarmView.of(records, now=now, model_uid=MODEL, protocol=1)


def choose_span(
    view: SwarmView,
    n_layers: int,
    capacity: int,
    *,
    precision: str | None = None,
    together: Span | None = None,
) -> Span:
    """Where a peer of unknown speed with room for `capacity` layers joins."""
    board = Board.of(view, n_layers, precision=precision, together=together)
    return join(board, Newcomer("", capacity)).span
