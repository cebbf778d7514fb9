"""Trials that take turns until their time is up, so that the machine's drift meets all of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import median
from typing import TypeVar

from swarm.bench.plan import Tell

Name = TypeVar("Name")
MOST_ROUNDS = 15


@dataclass(frozen=True, slots=True)
class Times:
    """Seconds for a unit of work, once for each round."""

    rounds: tuple[float, ...]

    @property
    def median_s(self) -> float:
        return median(self.rounds)

    def rate_spread(self, units: float = 1.0) -> str:
        """Lowest to highest rate of the rounds, as text."""
        return f"{units / max(self.rounds):.0f}-{units / min(self.rounds):.0f}"


def take_turns(
    trials: Mapping[Name, Callable[[], float]],
    seconds: float,
    clock: Callable[[], float],
    tell: Tell,
) -> dict[Name, Times]:
    """Run all trials in rounds, each of which returns its seconds for a unit of work.

    The first round warms up and does not count, unless it took so long that there is no time for a second one. No
    round begins that would probably end after `seconds`.
    """
    deadline_s = clock() + seconds
    found: dict[Name, list[float]] = {name: [] for name in trials}
    longest_s = 0.0
    for number in range(MOST_ROUNDS + 1):
        began_s = clock()
        if number and began_s + longest_s > deadline_s:
            break
        for name, run in trials.items():
            tell(f"{'warm-up' if not number else f'round {number}'}: {name}")
            found[name].append(run())
        longest_s = max(longest_s, clock() - began_s)
    return {name: Times(tuple(times[1:] or times)) for name, times in found.items()}


def clear_best(candidates: Mapping[Name, float], within: float = 1.05) -> Name:
    """The first of the candidates, in their order, that costs no more than the cheapest times `within`.

    What is not clearly better is noise: whoever comes first is preferred.
    """
    limit = min(candidates.values()) * within
    return next(name for name, cost in candidates.items() if cost <= limit)
