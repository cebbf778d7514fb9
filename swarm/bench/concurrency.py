"""Total tokens per second of many sessions at once, beside one session and the local model.

The sessions are threads on one `SwarmModel`, as in a gateway. What that process itself costs is measured beside: its
share of one core says whether it, and not the peers, bounds the rate.

Two rates. With prefill: all new tokens over the time from the first start to the last end. Decode: the tokens that came
while all sessions decoded, from the moment when the last one had its first token until the first one had its last.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from statistics import median
from threading import Barrier
from typing import Any

from torch import Tensor

from swarm.bench.lab import Lab
from swarm.bench.plan import Plan
from swarm.bench.ratios import divergences, ratio
from swarm.bench.report import Column, Figure, Report, Row
from swarm.bench.timed import Timed, timed
from swarm.bench.turns import differences, round_name

PROMPT = 16
COLUMNS = (
    Column("who", "concurrency"),
    Column("tokens_per_s", "tokens/s with prefill", 1),
    Column("ratio", "x one session"),
    Column("spread", "rounds"),
    Column("decode_per_s", "decode, tokens/s", 1),
    Column("decode_ratio", "x one session"),
    Column("decode_spread", "rounds"),
    Column("of_local", "x local, one session"),
    Column("flips", "sessions with a flip"),
    Column("client_share", "client, cores"),
)


@dataclass(frozen=True, slots=True)
class Crowd:
    """Sessions that ran at once: what each generated, and rates over the time from the first start to the last end."""

    runs: tuple[Timed, ...]
    tokens_per_s: float
    client_share: float

    @property
    def decode_per_s(self) -> float:
        """Tokens per second while all sessions decoded; 0 if they never did so at once."""
        begin = max(run.begun + run.times[0] for run in self.runs)
        end = min(run.begun + run.times[-1] for run in self.runs)
        moments = [run.begun + time for run in self.runs for time in run.times]
        return sum(begin < moment <= end for moment in moments) / (end - begin) if end > begin else 0.0


def crowd(model: Any, prompts: Sequence[Tensor], tokens: int) -> Crowd:
    """Continue every prompt by `tokens`, each in a session and a thread of its own, all at once."""
    start = Barrier(len(prompts))

    def one(ids: Tensor) -> Timed:
        start.wait()
        return timed(model, ids, tokens)

    with ThreadPoolExecutor(len(prompts)) as threads:
        begun, cpu = time.perf_counter(), time.process_time()
        runs = tuple(threads.map(one, prompts))
        seconds, cpu_s = time.perf_counter() - begun, time.process_time() - cpu
    return Crowd(runs, len(prompts) * tokens / seconds, cpu_s / seconds)


def concurrency(lab: Lab, plan: Plan) -> Report:
    """In each round the local model, one session, and every number of sessions take their turns at the same prompts."""
    prompts = [lab.prompt(plan.prompt or PROMPT, seed) for seed in range(max(plan.sessions))]
    local, single = [], []
    crowds: dict[int, list[Crowd]] = {count: [] for count in plan.sessions if count > 1}
    with lab.chain(plan.peers, "--kept-prefixes", "0") as model:  # the same prompts in every round
        lab.tell(f"concurrency: {len(prompts)} sessions one by one")
        alone = [timed(model, ids, plan.tokens).tokens for ids in prompts]
        for i in range(plan.rounds + 1):
            lab.tell(f"concurrency: {round_name(i, plan.rounds)}")
            local.append(crowd(lab.local, prompts[:1], plan.tokens))
            single.append(crowd(model, prompts[:1], plan.tokens))
            for count, found in crowds.items():
                found.append(crowd(model, prompts[:count], plan.tokens))
    cases = {"local": local, "1 session": single} | {f"{n} sessions": found for n, found in crowds.items()}
    return Report(
        "concurrency",
        f"{plan.tokens} tokens in each of many sessions at once, {plan.peers} peers",
        COLUMNS,
        tuple(_row(who, found, single, local, alone) for who, found in cases.items()),
        Figure("who", ("tokens_per_s",), "tokens/s in total"),
        notes=(
            "With prefill: all new tokens, from the first start to the last end. "
            "Decode: the tokens that came while all sessions decoded.",
            "A flip is the first token that differs from the same session alone; what follows it differs too.",
        ),
        problems=tuple(differences([c.runs[0] for c in single], [c.runs[0] for c in local])),
    )


def _row(
    who: str,
    found: Sequence[Crowd],
    single: Sequence[Crowd],
    local: Sequence[Crowd],
    alone: Sequence[Sequence[int]],
) -> Row:
    rates, one, yard = ([crowd.tokens_per_s for crowd in crowds[1:]] for crowds in (found, single, local))
    steady, steady_one = ([crowd.decode_per_s for crowd in crowds[1:]] for crowds in (found, single))
    gain, steady_gain = ratio(rates, one), ratio(steady, steady_one)
    flips = sum(divergences([run.tokens for run in c.runs], alone[: len(c.runs)]) for c in found)
    return {
        "who": who,
        "sessions": len(found[0].runs),
        "tokens_per_s": median(rates),
        "ratio": gain.median,
        "spread": gain.spread,
        "ratios": gain.rounds,
        "decode_per_s": median(steady),
        "decode_ratio": steady_gain.median,
        "decode_spread": steady_gain.spread,
        "decode_ratios": steady_gain.rounds,
        "of_local": ratio(rates, yard).median,
        "flips": f"{flips} of {sum(len(c.runs) for c in found)}",
        "client_share": median(c.client_share for c in found[1:]),
    }
