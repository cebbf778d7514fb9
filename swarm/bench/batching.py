"""How much faster the layers of a peer decode for several sessions in one batch than one by one, without network."""

from __future__ import annotations

import time
from collections.abc import Sequence
from statistics import median

from swarm.bench.fed_shard import feed, first_shard
from swarm.bench.lab import Lab
from swarm.bench.plan import Plan
from swarm.bench.ratios import ratio
from swarm.bench.report import Column, Figure, Report, Row
from swarm.bench.turns import round_name
from swarm.shards.session import ShardSession

PROMPT = 64
COLUMNS = (
    Column("who", "batching"),
    Column("apart_ms", "one by one, ms", 1),
    Column("together_ms", "in one batch, ms", 1),
    Column("ratio", "x faster"),
    Column("spread", "rounds"),
)


def batching(lab: Lab, plan: Plan) -> Report:
    """Both ways take turns, `plan.tokens` tokens a round, on the first peer's layers; every session gets each token."""
    shard, length = first_shard(lab, plan.peers), plan.prompt or PROMPT
    rows = []
    for count in plan.sessions:
        together, apart = ([shard.open(shard.span, rollback=True) for _ in range(count)] for _ in range(2))
        for session in (*together, *apart):
            feed([session], length)
        apart_s: list[float] = []
        together_s: list[float] = []
        for i in range(plan.rounds + 1):
            lab.tell(f"batching, {count} sessions: {round_name(i, plan.rounds)}")
            apart_s.append(_seconds([[session] for session in apart], plan.tokens))
            together_s.append(_seconds([together], plan.tokens))
        rows.append(_row(count, apart_s[1:], together_s[1:]))
    return Report(
        "batching",
        f"A token for each of many sessions after {length}, layers {shard.span} of {lab.layers}, {shard.batching}",
        COLUMNS,
        tuple(rows),
        Figure("who", ("apart_ms", "together_ms"), "ms"),
    )


def _seconds(groups: Sequence[Sequence[ShardSession]], tokens: int) -> float:
    """Mean time in which every session gets one token."""
    begun = time.perf_counter()
    for _ in range(tokens):
        for sessions in groups:
            feed(sessions, 1)
    return (time.perf_counter() - begun) / tokens


def _row(count: int, apart_s: list[float], together_s: list[float]) -> Row:
    gain = ratio(apart_s, together_s)
    return {
        "who": f"{count} session{'s' * (count > 1)}",
        "sessions": count,
        "apart_ms": 1000 * median(apart_s),
        "together_ms": 1000 * median(together_s),
        "ratio": gain.median,
        "spread": gain.spread,
        "ratios": gain.rounds,
    }
