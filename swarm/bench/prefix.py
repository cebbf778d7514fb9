"""Seconds until the first token of a prompt that was asked for before, beside the first time and the local model."""

from __future__ import annotations

from statistics import median

from swarm.bench.lab import Lab
from swarm.bench.plan import Plan
from swarm.bench.ratios import ratio
from swarm.bench.report import Column, Figure, Report, Row
from swarm.bench.timed import Timed, timed
from swarm.bench.turns import differences, round_name

PROMPT = 1000
COLUMNS = (
    Column("who", "prefix"),
    Column("first_s", "first token, s", 3),
    Column("gain", "x sooner"),
    Column("spread", "rounds"),
)


def prefix(lab: Lab, plan: Plan) -> Report:
    """Every round has a new prompt, which is asked for twice."""
    length = plan.prompt or PROMPT
    local: list[Timed] = []
    first: list[Timed] = []
    again: list[Timed] = []
    with lab.chain(plan.peers) as model:
        for i in range(plan.rounds + 1):
            lab.tell(f"prefix: {round_name(i, plan.rounds)}")
            ids = lab.prompt(length, seed=i)
            local.append(timed(lab.local, ids, plan.tokens))
            first.append(timed(model, ids, plan.tokens))
            again.append(timed(model, ids, plan.tokens))
    return Report(
        "prefix",
        f"First token after {length} tokens that were asked for before, {plan.peers} peers",
        COLUMNS,
        tuple(
            _row(who, found[1:], first[1:])
            for who, found in {"local": local, "first time": first, "again": again}.items()
        ),
        Figure("who", ("first_s",), "seconds"),
        problems=tuple(differences(first, local) + differences(again, local)),
    )


def _row(who: str, found: list[Timed], first: list[Timed]) -> Row:
    gain = ratio([run.first_s for run in first], [run.first_s for run in found])
    return {
        "who": who,
        "first_s": median(run.first_s for run in found),
        "gain": gain.median,
        "spread": gain.spread,
        "gains": gain.rounds,
    }
