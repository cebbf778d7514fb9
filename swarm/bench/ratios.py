"""Statistics of measurements that took turns.

The machine's speed drifts while a benchmark runs, so that rates of different minutes cannot be compared. Local model
and swarm take turns; the ratio of each round is taken, and the median of the ratios is the result.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median


@dataclass(frozen=True, slots=True)
class Ratio:
    """The median of the rounds' ratios, and all of them."""

    median: float
    rounds: tuple[float, ...]

    @property
    def spread(self) -> str:
        """Lowest to highest, as text."""
        return f"{min(self.rounds):.2f}-{max(self.rounds):.2f}"


def ratio(above: Sequence[float], below: Sequence[float]) -> Ratio:
    """`above / below`, round by round."""
    rounds = tuple(a / b for a, b in zip(above, below, strict=True))
    return Ratio(median(rounds), rounds)


def per_hop(one: Sequence[float], many: Sequence[float], hops: int) -> tuple[float, ...]:
    """What each of the hops after the first one adds, round by round: `(many - one) / (hops - 1)`."""
    return tuple((b - a) / (hops - 1) for a, b in zip(one, many, strict=True))


def stall(times: Sequence[float]) -> float:
    """The longest gap between two moments, less the usual one."""
    gaps = [b - a for a, b in pairwise(times)]
    return max(gaps) - median(gaps)


def longest_gap(times: Sequence[float]) -> float:
    """The longest gap between two moments, in usual ones."""
    gaps = [b - a for a, b in pairwise(times)]
    return max(gaps) / median(gaps)


def percentile(values: Sequence[float], percent: int) -> float:
    """The smallest of the values that so many percent of them do not exceed."""
    return sorted(values)[-(-len(values) * percent // 100) - 1]


def divergences(found: Sequence[Sequence[int]], expected: Sequence[Sequence[int]]) -> int:
    """How many sequences differ: after the first token that flipped, the rest has another past and does not count."""
    return sum(list(a) != list(b) for a, b in zip(found, expected, strict=True))
