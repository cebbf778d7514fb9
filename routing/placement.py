"""Where a new peer raises the swarm's throughput most."""

from __future__ import annotations

from dataclasses import dataclass, replace
from hashlib import sha256

import numpy as np
from numpy.typing import NDArray

from swarm.core.errors import ModelError
from swarm.core.span import Span
from swarm.routing.decision import Action, Decision
from swarm.routing.seats import Board, Seat
from swarm.routing.throughput import Floats, Shortage, best_tokens_per_s


@dataclass(frozen=True, slots=True)
class Newcomer:
    """A peer that has no place yet: how many layers fit on it, and its layers x tokens per second (0: not measured)."""

    peer_id: str
    capacity: int
    speed: float = 0.0


def join(board: Board, newcomer: Newcomer, *, replicas: int = 1) -> Decision:
    """That this peer goes to its `place`, with what that does for the swarm. Raises what `place` does."""
    return _joined(board, place(board, newcomer, replicas=replicas))


def place(board: Board, newcomer: Newcomer, *, replicas: int = 1) -> Seat:
    """The `capacity` consecutive layers (all, if there are fewer) where this peer raises the throughput most.

    In this order: most layers that nobody has; most layers with fewer than `replicas` peers; most of the peer's speed
    used; the window that is served least; the front one. Peers on their way count as serving.

    Raises:
        ModelError: if every window of this length would cut layers that must stay together.
    """
    assert newcomer.capacity > 0
    length = min(newcomer.capacity, board.n_layers)
    starts = board.starts(length)
    if not starts.size:
        raise ModelError(
            f"layers {board.together} must stay together on one peer, and only {length} layers fit here"
        )
    speed = newcomer.speed or _typical_speed(board)
    counts = board.counts()
    windows = starts[:, None] + np.arange(length)
    missing = (counts == 0)[windows].sum(axis=1)
    thin = (counts < replicas)[windows].sum(axis=1)
    # nothing is served before the last hole is closed, so nothing can be said about speed
    used = np.zeros(len(starts)) if missing.any() else _used(board, starts, length, speed)
    served = np.sort(board.layer_rates[windows], axis=1)
    order = np.lexsort((starts, *served.T[::-1], -np.round(used / speed, 2), -thin, -missing))
    start = int(starts[order[0]])
    return Seat(newcomer.peer_id, Span(start, start + length), speed, ready=False)


def settle(board: Board, peer_id: str, *, replicas: int = 1) -> Decision:
    """Whether a place that was claimed, and not loaded yet, is still right after others have claimed as well."""
    return join(*claim(board, peer_id), replicas=replicas)


def claim(board: Board, peer_id: str) -> tuple[Board, Newcomer]:
    """What a peer that has claimed a place chooses it by again: those who count before it, and itself as a newcomer.

    Of peers that are on their way at the same time, each gives way to those before it in `precedence`, so that not all
    of them keep the same hole.
    """
    own = next(seat for seat in board.seats if seat.peer_id == peer_id)
    before = tuple(
        seat
        for seat in board.seats
        if seat.ready or (seat != own and precedence(seat.peer_id) < precedence(peer_id))
    )
    return replace(board, seats=before), Newcomer(peer_id, len(own.span), own.speed)


def precedence(peer_id: str, epoch: int = 0) -> bytes:
    """An order of peers that all of them know, that none can choose, and that changes with the epoch."""
    return sha256(f"{epoch}/{peer_id}".encode()).digest()


def _used(board: Board, starts: NDArray[np.int64], length: int, speed: float) -> Floats:
    """How much of the speed each window can use, if the swarm should serve the best possible."""
    seats = [*((seat.speed, len(seat.span)) for seat in board.seats), (speed, length)]
    target = best_tokens_per_s([s for s, _ in seats], [n for _, n in seats], board.n_layers)
    return np.minimum(Shortage(board.grid, target).slack[starts, starts + length], speed)


def _typical_speed(board: Board) -> float:
    return float(np.median([seat.speed for seat in board.seats])) if board.seats else 1.0


def _joined(board: Board, seat: Seat) -> Decision:
    after = replace(board, seats=(*board.seats, seat))
    layer, rate = board.weakest()
    return Decision(
        action=Action.JOIN,
        span=seat.span,
        origin=None,
        reason="closes a hole" if after.tokens_per_s > 0 else "holes remain",
        weakest_layer=layer,
        weakest_tokens_per_s=rate,
        tokens_per_s=board.tokens_per_s,
        expected_tokens_per_s=after.tokens_per_s,
        best_tokens_per_s=after.best_tokens_per_s,
    )
