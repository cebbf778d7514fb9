"""How long decoding sessions wait for their next token while somebody else's long prompt is computed."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from statistics import median

from swarm.bench.concurrency import crowd
from swarm.bench.lab import Lab
from swarm.bench.plan import Plan
from swarm.bench.ratios import percentile, ratio
from swarm.bench.report import Column, Figure, Report, Row
from swarm.bench.timed import Timed, timed
from swarm.bench.turns import differences, round_name
from swarm.core.errors import SwarmError

PROMPT = 4096
_SESSIONS = 4
_SHORT = 16
COLUMNS = (
    Column("who", "fairness"),
    Column("usual_ms", "ms/token", 1),
    Column("p99_ms", "99% within, ms", 1),
    Column("ratio", "x alone"),
    Column("spread", "rounds"),
    Column("prefill_s", "prefill, s"),
)


def fairness(lab: Lab, plan: Plan) -> Report:
    """Four sessions decode, first among themselves, then while the prefill of another one runs, round by round."""
    alone: list[list[float]] = []
    beside: list[list[float]] = []
    local: list[Timed] = []
    single: list[Timed] = []
    prefills: list[float] = []
    length = plan.prompt or PROMPT
    with lab.chain(plan.peers) as model:
        for i in range(plan.rounds + 1):
            lab.tell(f"fairness: {round_name(i, plan.rounds)}")
            prompts = [lab.prompt(_SHORT, seed=1 + i * _SESSIONS + n) for n in range(_SESSIONS)]
            local.append(timed(lab.local, prompts[0], plan.tokens))
            calm = crowd(model, prompts, plan.tokens).runs
            single.append(calm[0])
            alone.append(gaps(calm))
            with ThreadPoolExecutor(1) as other:
                long = other.submit(timed, model, lab.prompt(length, seed=-1 - i), 1)
                runs = crowd(model, prompts, plan.tokens).runs
            prefills.append(long.result().first_s)
            beside.append(gaps(runs, until=long.result().begun + prefills[-1]))
    rows = (
        _row("alone", alone[1:], alone[1:], None),
        _row("beside prefill", beside[1:], alone[1:], median(prefills[1:])),
    )
    local_row: Row = {"who": "local, one session", "usual_ms": 1000 * median(run.step_s for run in local[1:])}
    return Report(
        "fairness",
        f"Time between tokens of {_SESSIONS} sessions beside a prefill of {length} tokens, {plan.peers} peers",
        COLUMNS,
        (local_row, *rows),
        Figure("who", ("usual_ms", "p99_ms"), "ms"),
        problems=tuple(differences(single, local)),
    )


def gaps(runs: Sequence[Timed], until: float | None = None) -> list[float]:
    """Seconds between tokens that came before the moment `until`, of all sessions."""
    moments = [[run.begun + time for time in run.times] for run in runs]
    return [b - a for times in moments for a, b in pairwise(times) if until is None or a < until]


def _row(who: str, found: list[list[float]], alone: list[list[float]], prefill_s: float | None) -> Row:
    if not all(found):
        raise SwarmError("the prefill was over before a session had decoded: give a longer --prompt")
    worst, calm = ([percentile(times, 99) for times in rounds] for rounds in (found, alone))
    times = ratio(worst, calm)
    return {
        "who": who,
        "usual_ms": 1000 * median(gap for rounds in found for gap in rounds),
        "p99_ms": 1000 * median(worst),
        "ratio": times.median,
        "spread": times.spread,
        "ratios": times.rounds,
        "prefill_s": prefill_s,
    }
