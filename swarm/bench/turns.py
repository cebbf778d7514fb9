"""The local model and chains of 1 to N peers take turns at the same prompts."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from statistics import median

from swarm.bench.lab import Lab
from swarm.bench.plan import Plan
from swarm.bench.ratios import divergences
from swarm.bench.timed import Timed, timed


@dataclass(frozen=True, slots=True)
class Turns:
    """What came of it: `columns[n]` are the counted rounds of the chain of n peers, `columns[0]` the local model's.

    The rounds of one swarm come after those of the one before.
    """

    columns: tuple[tuple[Timed, ...], ...]
    swarms: int
    problems: tuple[str, ...]

    @staticmethod
    def who(peers: int) -> str:
        """What a table calls a column."""
        return f"{peers} peer{'s' * (peers > 1)}" if peers else "local"

    def by_swarm(self, values: Sequence[float]) -> list[float]:
        """The median of each swarm, of one value for each round."""
        size = len(values) // self.swarms
        return [median(values[i : i + size]) for i in range(0, len(values), size)]


def take_turns(lab: Lab, plan: Plan, name: str, length: int, tokens: int) -> Turns:
    """Each round everyone continues the same prompt of `length` tokens, a new one every round, by `tokens`.

    One process computes the same layers faster than another one, for as long as both live: where its memory lies makes
    up to a third. So several swarms are started, one after the other.
    """
    warm_ups: list[list[Timed]] = []
    rounds: list[list[Timed]] = []
    for swarm in range(plan.swarms):
        with ExitStack() as stack:
            models = [lab.local]
            models += [stack.enter_context(lab.chain(peers)) for peers in range(1, plan.peers + 1)]
            for i in range(plan.rounds + 1):
                lab.tell(f"{name}: swarm {swarm + 1} of {plan.swarms}, {round_name(i, plan.rounds)}")
                ids = lab.prompt(length, seed=i)
                (rounds if i else warm_ups).append([timed(model, ids, tokens) for model in models])
    every = tuple(zip(*warm_ups, *rounds, strict=True))
    problems = [line for column in every[1:] for line in differences(column, every[0])]
    return Turns(tuple(zip(*rounds, strict=True)), plan.swarms, tuple(problems))


def round_name(number: int, rounds: int) -> str:
    """The first round, 0, warms up."""
    return f"round {number} of {rounds}" if number else "warming up"


def differences(found: Sequence[Timed], local: Sequence[Timed]) -> list[str]:
    """A line that says in how many runs tokens differ from the local model's; none if in none."""
    wrong = divergences([run.tokens for run in found], [run.tokens for run in local])
    return [f"in {wrong} of {len(found)} runs the tokens differ from the local model's"] if wrong else []
