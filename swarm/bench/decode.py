"""Tokens per second of one session over 1 to N peers, beside the local model."""

from __future__ import annotations

from statistics import median

from swarm.bench.lab import Lab
from swarm.bench.plan import Plan
from swarm.bench.ratios import per_hop, ratio
from swarm.bench.report import Column, Figure, Report, Row
from swarm.bench.turns import Turns, take_turns

PROMPT = 16
COLUMNS = (
    Column("who", "decode"),
    Column("tokens_per_s", "tokens/s", 1),
    Column("step_ms", "ms/token", 2),
    Column("ratio", "of local"),
    Column("spread", "rounds"),
    Column("hop_ms", "ms per added hop"),
    Column("hop_spread", "swarms"),
    Column("first_ms", "first token, ms", 1),
)


def decode(lab: Lab, plan: Plan) -> Report:
    """Rates count from the first new token to the last; opening the session and prefill stand beside them."""
    length = plan.prompt or PROMPT
    turns = take_turns(lab, plan, "decode", length, plan.tokens)
    return Report(
        "decode",
        f"Decode of {plan.tokens} tokens after {length}, one session",
        COLUMNS,
        tuple(_row(turns, peers) for peers in range(plan.peers + 1)),
        Figure("who", ("tokens_per_s",), "tokens/s"),
        problems=turns.problems,
    )


def _row(turns: Turns, peers: int) -> Row:
    """The row of a chain; without peers, of the local model."""
    steps = [[run.step_s for run in column] for column in turns.columns]
    own = steps[peers]
    speed = ratio(steps[0], own) if peers else None
    hops_ms = [1000 * cost for cost in per_hop(steps[1], own, peers)] if peers > 1 else []
    by_swarm = turns.by_swarm(hops_ms) if hops_ms else []
    return {
        "who": turns.who(peers),
        "peers": peers,
        "tokens_per_s": 1 / median(own),
        "step_ms": 1000 * median(own),
        "ratio": speed.median if speed else None,
        "spread": speed.spread if speed else None,
        "ratios": speed.rounds if speed else None,
        "hop_ms": median(hops_ms) if hops_ms else None,
        "hop_spread": f"{min(by_swarm):.2f} to {max(by_swarm):.2f}" if by_swarm else None,
        "hops_ms": tuple(hops_ms) or None,
        "first_ms": 1000 * median(run.first_s for run in turns.columns[peers]),
    }
