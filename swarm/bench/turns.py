"""The local model and chains of 1 to N peers take turns at the same prompts."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from swarm.bench.lab import Lab
from swarm.bench.plan import Plan
from swarm.bench.ratios import divergences
from swarm.bench.timed import Timed, timed


@dataclass(frozen=True, slots=True)
class Turns:
    """What came of it: `columns[n]` are the counted rounds of the chain of n peers, `columns[0]` the local model's."""

    columns: tuple[tuple[Timed, ...], ...]
    problems: tuple[str, ...]

    @staticmethod
    def who(peers: int) -> str:
        """What a table calls a column."""
        return f"{peers} peer{'s' * (peers > 1)}" if peers else "local"


def take_turns(lab: Lab, plan: Plan, name: str, length: int, tokens: int) -> Turns:
    """Each round everyone continues the same prompt of `length` tokens, a new one every round, by `tokens`."""
    rounds: list[list[Timed]] = []
    with ExitStack() as stack:
        models = [lab.local]
        models += [stack.enter_context(lab.chain(peers)) for peers in range(1, plan.peers + 1)]
        for i in range(plan.rounds + 1):
            lab.tell(f"{name}: {round_name(i, plan.rounds)}")
            ids = lab.prompt(length, seed=i)
            rounds.append([timed(model, ids, tokens) for model in models])
    found = tuple(zip(*rounds, strict=True))
    problems = [line for column in found[1:] for line in differences(column, found[0])]
    return Turns(tuple(column[1:] for column in found), tuple(problems))


def round_name(number: int, rounds: int) -> str:
    """The first round, 0, warms up."""
    return f"round {number} of {rounds}" if number else "warming up"


def differences(found: Sequence[Timed], local: Sequence[Timed]) -> list[str]:
    """A line that says in how many runs tokens differ from the local model's; none if in none."""
    wrong = divergences([run.tokens for run in found], [run.tokens for run in local])
    return [f"in {wrong} of {len(found)} runs the tokens differ from the local model's"] if wrong else []
