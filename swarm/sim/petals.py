"""The placement rule of Petals (Borzunov et al., 2023), to compare with.

A newcomer waits a random moment and takes the window whose sorted throughputs are lexicographically smallest. Every
minute a peer asks what the weakest layer would have if it moved to its best window and everybody else then moved to
theirs, until nobody wants to move; it moves if that is better than now by a third.

One liberty, for speed: what comes out when everybody moves is computed once for all peers that ask within a minute.
"""

from __future__ import annotations

from functools import cache
from itertools import accumulate

import numpy as np

from swarm.core.span import Span
from swarm.routing.placement import Newcomer
from swarm.routing.seats import Board
from swarm.routing.throughput import Floats

BALANCE = 0.75
REVIEW_S = 60.0
_EPS = 1e-3
_MAX_ROUNDS = 8
_DIGIT_BITS = 12  # room for the count of equal layers in one window


class Petals:
    """See above; the throughput of a peer is its speed divided by its number of layers."""

    def __init__(self) -> None:
        self._outcome = 0.0
        self._outcome_until = -1.0

    def join_delay_s(self, rng: np.random.Generator) -> float:
        return float(rng.uniform(0.0, 5.0))

    def join(self, board: Board, newcomer: Newcomer, rng: np.random.Generator) -> Span:
        start = best_start(board.layer_rates, newcomer.capacity)
        return Span(start, start + newcomer.capacity)

    def settle(self, board: Board, peer_id: str) -> Span:
        return _span(board, peer_id)

    def is_urgent(self, board: Board) -> bool:
        return False

    def review_delay_s(self, rng: np.random.Generator, *, hasty: bool = False) -> float:
        return REVIEW_S * float(rng.uniform(0.5, 1.5))

    def review(self, board: Board, peer_id: str, now: float, rng: np.random.Generator) -> Span:
        rates, own = board.layer_rates, board.find(peer_id)
        assert own is not None
        rate, length = own.speed / len(own.span), len(own.span)
        without = rates.copy()
        without[own.span.start : own.span.end] -= rate * (1 + _EPS)
        now_at_least = float(rates.min())
        if now_at_least > _EPS and without.min() <= 0:
            return own.span
        if now_at_least >= (BALANCE - _EPS) * float(rates.mean()):
            return own.span  # nothing lifts the weakest layer over the mean
        start = best_start(without, length)
        if start == own.span.start:
            return own.span
        if now >= self._outcome_until:
            self._outcome, self._outcome_until = outcome(board, rng), now + REVIEW_S
        if self._outcome < now_at_least or self._outcome < _EPS:
            return own.span
        if now_at_least / self._outcome < BALANCE - _EPS:
            return Span(start, start + length)
        return own.span


@cache
def _ones(places: int) -> list[int]:
    """A one in each of so many digits."""
    return [1 << (_DIGIT_BITS * place) for place in range(places)]


def best_start(rates: Floats, length: int) -> int:
    """Where the window of this length with the lexicographically smallest sorted rates begins; the front one of equals.

    Each layer is a number with a one in the digit of its rate, the digits of small rates in front. The sum over a
    window counts its layers by rate, so the greatest sum is the lexicographically smallest window.
    """
    values = rates.tolist()
    digit = dict(zip(sorted(set(values), reverse=True), _ones(len(values)), strict=False))
    sums = [0, *accumulate(map(digit.__getitem__, values))]
    windows = [end - start for start, end in zip(sums, sums[length:], strict=False)]
    return windows.index(max(windows))


def outcome(board: Board, rng: np.random.Generator) -> float:
    """What the weakest layer has after everybody moved to the best window again and again."""
    rates = board.layer_rates.copy()
    starts = [seat.span.start for seat in board.seats]
    lengths = [len(seat.span) for seat in board.seats]
    own = [seat.speed / len(seat.span) for seat in board.seats]
    for _ in range(_MAX_ROUNDS):
        moved = False
        for i in rng.permutation(len(starts)):
            here = slice(starts[i], starts[i] + lengths[i])
            rates[here] -= own[i] * (1 + _EPS)
            start = best_start(rates, lengths[i])
            rates[here] += own[i] * _EPS
            moved |= start != starts[i]
            starts[i] = start
            rates[start : start + lengths[i]] += own[i]
        if not moved:
            break
    return float(rates.min())


def _span(board: Board, peer_id: str) -> Span:
    own = board.find(peer_id)
    assert own is not None
    return own.span
