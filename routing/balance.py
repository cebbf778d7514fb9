"""When and where a serving peer moves.

Every peer computes the same plan from the same records: the few moves that help the swarm most, one after the other,
each as if the ones before it were done. A peer moves if the plan names it. So nobody has to ask anybody, and of two
peers that could fill a hole one does. The order of candidates changes every minute by a hash that nobody can choose, so
that a peer which does not do its part holds the plan up for a minute and not for ever.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from swarm.core.span import Span
from swarm.routing.decision import Action, Decision
from swarm.routing.placement import precedence
from swarm.routing.seats import Board, Seat
from swarm.routing.throughput import Floats, Shortage, add

EPOCH_S = 60.0
_TRIES = 8  # how many of the best moves are looked at closely before the plan ends


@dataclass(frozen=True, slots=True)
class Goal:
    """What balancing aims at, and what it shies away from.

    Attributes:
        replicas: how many peers every layer should have at least.
        rest_at: a swarm that serves this part of the best possible is left alone.
        haste_at: one that serves less than this part of it is not left to the next regular review.
        use: a move must bring this part of the peer's speed into use, or close this part of all that lacks.
        horizon_s: a move's cost must come back within this time.
        session_s: what disturbing one live session costs, in seconds of the peer's work.
        stretch: what lacks is judged at this multiple of what the swarm serves now, or at the best possible.
        parallel: at most this part of all peers are on their way at the same time.
        candidates: how many peers are tried for each move.
    """

    replicas: int = 1
    rest_at: float = 0.98
    haste_at: float = 0.85
    use: float = 0.2
    horizon_s: float = 600.0
    session_s: float = 1.0
    stretch: float = 3.0
    parallel: float = 1 / 16
    candidates: int = 24


@dataclass(frozen=True, slots=True)
class Move:
    """One step of the plan: this peer goes there, with what the swarm serves before and after."""

    seat: Seat
    span: Span
    before_tokens_per_s: float
    after_tokens_per_s: float


def review_delay_s(draw: float, *, hasty: bool = False) -> float:
    """Seconds until the next review, for `draw` from [0, 1); soon after `is_urgent` has become true."""
    return 3.0 * draw if hasty else 30.0 * (0.5 + draw)


def is_urgent(board: Board, goal: Goal) -> bool:
    """Whether peers should review at once: nobody is about to close a hole, or the swarm serves far too little."""
    return board.best_tokens_per_s > 0 and board.tokens_per_s < goal.haste_at * board.best_tokens_per_s


def review(board: Board, peer_id: str, goal: Goal, now: float) -> Decision:
    """What this peer should do at the DHT time `now`: MOVE or STAY."""
    return decide(board, peer_id, plan_moves(board, goal, now))


def decide(board: Board, peer_id: str, plan: tuple[Move, ...]) -> Decision:
    """What the plan means for this peer."""
    own = board.find(peer_id)
    assert own is not None, "a peer reviews a board on which it sits"
    move = next((move for move in plan if move.seat.peer_id == peer_id), None)
    layer, rate = board.weakest()
    return Decision(
        action=Action.STAY if move is None else Action.MOVE,
        span=own.span if move is None else move.span,
        origin=own.span,
        reason=_reason(board, own, plan, move),
        weakest_layer=layer,
        weakest_tokens_per_s=rate,
        tokens_per_s=board.tokens_per_s if move is None else move.before_tokens_per_s,
        expected_tokens_per_s=board.tokens_per_s if move is None else move.after_tokens_per_s,
        best_tokens_per_s=board.best_tokens_per_s,
    )


def objection(board: Board, peer_id: str, origin: Span) -> str | None:
    """Why a peer that has claimed another place should stay at `origin`, now that others know of the claim.

    Of peers on their way to the same layers the first in `precedence` goes. What nobody else serves is not left.
    """
    own = board.find(peer_id)
    if own is None or own.ready:
        return "its claim is not known yet"
    ready = board.counts(ready=True)
    left = [layer for layer in range(origin.start, origin.end) if layer not in own.span and not ready[layer]]
    if left:
        return f"nobody else would serve layer {left[0]}"
    gained = [layer for layer in range(own.span.start, own.span.end) if layer not in origin]
    for seat in board.seats:
        goes_first = not seat.ready and precedence(seat.peer_id) < precedence(peer_id)
        if goes_first and all(layer in seat.span for layer in gained):
            return f"peer {seat.peer_id[-8:]} goes there"
    return None


def plan_moves(board: Board, goal: Goal, now: float) -> tuple[Move, ...]:
    """The next moves of the whole swarm, the most useful first; empty where the swarm is balanced.

    Never moved are pinned peers, peers on their way, and peers whose layers nobody else serves.
    """
    epoch = int(now // EPOCH_S)
    limit = max(1, int(len(board.seats) * goal.parallel))
    moves: list[Move] = []
    while len(moves) < limit and _needs_help(board, goal):
        move = _next_move(board, goal, epoch)
        if move is None:
            break
        moves.append(move)
        board = _after(board, move)
    return tuple(moves)


def _needs_help(board: Board, goal: Goal) -> bool:
    if board.counts().min() < goal.replicas:
        return True
    return board.tokens_per_s < goal.rest_at * board.best_tokens_per_s


def _after(board: Board, move: Move) -> Board:
    gone = replace(move.seat, span=move.span, ready=False)
    return replace(board, seats=tuple(gone if seat == move.seat else seat for seat in board.seats))


@dataclass(frozen=True, slots=True)
class _Option:
    """A peer at another place: layers without peers and layers below the goal that this fills, and work it adds."""

    seat: Seat
    span: Span
    holes: int
    thin: int
    gain: float
    net: float

    @property
    def value(self) -> tuple[int, int, float]:
        return self.holes, self.thin, self.net


def _next_move(board: Board, goal: Goal, epoch: int) -> Move | None:
    target = board.best_tokens_per_s
    if board.tokens_per_s > 0:
        target = min(target, goal.stretch * board.tokens_per_s)
    lack = Shortage(board.grid, target)
    candidates = _candidates(board, lack, goal, epoch)
    if not candidates:
        return None
    options = sorted(_options(board, lack, candidates, goal), key=lambda option: option.value, reverse=True)
    for option in options[:_TRIES]:
        move = Move(option.seat, option.span, board.tokens_per_s, 0.0)
        after = _after(board, move)
        if _is_worth_it(option, float(lack.missing), board, after, goal):
            return replace(move, after_tokens_per_s=after.tokens_per_s)
    return None


def _candidates(board: Board, lack: Shortage, goal: Goal, epoch: int) -> list[Seat]:
    """Peers that may leave and are missed least: first those in surplus, of these the fastest."""
    holes = bool(board.counts().min() == 0)
    ready = board.counts(ready=True)
    free = [
        seat
        for seat in board.seats
        if seat.ready and not seat.pinned and (holes or ready[seat.span.start : seat.span.end].min() > 1)
    ]
    ranked = [(_rank(seat, lack, epoch), seat) for seat in free]
    ranked.sort(key=lambda pair: pair[0])
    return [seat for _, seat in ranked[: goal.candidates]]


def _rank(seat: Seat, lack: Shortage, epoch: int) -> tuple[bool, float, float, bytes]:
    order = precedence(seat.peer_id, epoch)
    used = float(lack.slack[seat.span.start, seat.span.end])
    return order[-1] < 64, used, -seat.speed, order


def _options(board: Board, lack: Shortage, candidates: list[Seat], goal: Goal) -> Iterator[_Option]:
    """The best places of each candidate."""
    grids = np.repeat(board.grid[None], len(candidates), axis=0)
    for grid, seat in zip(grids, candidates, strict=True):
        add(grid, seat.span, -seat.speed)
    without = Shortage(grids, lack.target)
    losses = without.missing - lack.missing
    for seat, slack, loss in zip(candidates, without.slack, losses, strict=True):
        yield from _places(board, seat, slack, float(loss), goal)


def _places(board: Board, seat: Seat, slack: Floats, loss: float, goal: Goal) -> Iterator[_Option]:
    length, own = len(seat.span), seat.span
    starts = board.starts(length)
    starts = starts[starts != own.start]
    if not starts.size:
        return
    counts = board.counts()
    counts[own.start : own.end] -= 1
    ready = board.counts(ready=True)
    ready[own.start : own.end] -= 1
    holes, thin = (_filled(counts < least, own, starts) for least in (1, goal.replicas))
    gains = np.minimum(slack[starts, starts + length], seat.speed) - loss
    loaded = np.minimum(np.abs(starts - own.start), length)
    cost_s = loaded * seat.load_s + seat.sessions * goal.session_s
    nets = gains - cost_s / goal.horizon_s * seat.speed
    for i in np.lexsort((nets, thin, holes))[::-1][:_TRIES]:
        span = Span(int(starts[i]), int(starts[i]) + length)
        left = [layer for layer in range(own.start, own.end) if layer not in span]
        if ready[left].min() > 0:
            yield _Option(seat, span, int(holes[i]), int(thin[i]), float(gains[i]), float(nets[i]))


def _filled(lacking: NDArray[np.bool_], own: Span, starts: NDArray[np.int64]) -> NDArray[np.int64]:
    """How many more lacking layers each window covers than the peer's own place does."""
    sums = np.concatenate(([0], lacking.cumsum()))
    return np.asarray(sums[starts + len(own)] - sums[starts] - (sums[own.end] - sums[own.start]))


def _is_worth_it(option: _Option, missing: float, board: Board, after: Board, goal: Goal) -> bool:
    if option.holes or option.thin:
        return (option.holes, option.thin) > (0, 0) and after.tokens_per_s >= 0.9 * board.tokens_per_s
    if board.tokens_per_s >= goal.rest_at * board.best_tokens_per_s or option.net <= 0:
        return False
    least = goal.use * min(option.seat.speed, missing)
    return option.gain >= least and after.tokens_per_s >= board.tokens_per_s * (1 - 1e-9)


def _reason(board: Board, own: Seat, plan: tuple[Move, ...], move: Move | None) -> str:
    if move is not None:
        return "closes a hole" if move.after_tokens_per_s > 0 else "holes remain"
    if own.pinned:
        return "pinned"
    if plan:
        return f"{len(plan)} other peers move first" if len(plan) > 1 else "another peer moves first"
    if not board.best_tokens_per_s:
        return "the swarm cannot hold all layers"
    return f"the swarm serves {board.tokens_per_s / board.best_tokens_per_s:.0%} of the best possible"
