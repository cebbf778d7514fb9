"""Seconds until the first token after a long prompt, over 1 to N peers, beside the local model."""

from __future__ import annotations

from statistics import median

from swarm.bench.lab import Lab
from swarm.bench.plan import Plan
from swarm.bench.ratios import ratio
from swarm.bench.report import Column, Figure, Report, Row
from swarm.bench.turns import Turns, take_turns

PROMPT = 1024
COLUMNS = (
    Column("who", "prefill"),
    Column("seconds", "seconds", 3),
    Column("tokens_per_s", "tokens/s", 0),
    Column("ratio", "x local time"),
    Column("spread", "rounds"),
)


def prefill(lab: Lab, plan: Plan) -> Report:
    """The time includes opening the session and the first token's head."""
    length = plan.prompt or PROMPT
    turns = take_turns(lab, plan, "prefill", length, 1)
    return Report(
        "prefill",
        f"Prefill of {length} tokens, one session",
        COLUMNS,
        tuple(_row(turns, peers, length) for peers in range(plan.peers + 1)),
        Figure("who", ("seconds",), "seconds"),
        problems=turns.problems,
    )


def _row(turns: Turns, peers: int, length: int) -> Row:
    """The row of a chain; without peers, of the local model."""
    local, own = ([run.first_s for run in turns.columns[n]] for n in (0, peers))
    share = ratio(own, local) if peers else None
    return {
        "who": turns.who(peers),
        "peers": peers,
        "seconds": median(own),
        "tokens_per_s": length / median(own),
        "ratio": share.median if share else None,
        "spread": share.spread if share else None,
        "ratios": share.rounds if share else None,
    }
