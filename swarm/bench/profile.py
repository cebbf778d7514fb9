"""Where client and hops spend the time of a token: a profile of decode steps, process by process."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import psutil
from torch import Tensor

from swarm.bench.lab import Lab, cut
from swarm.bench.local_swarm import LocalSwarm
from swarm.bench.plan import Plan
from swarm.bench.report import Column, Figure, Report, Row
from swarm.bench.sampler import OTHER, PLACES, Sampler, check_sampler
from swarm.bench.timed import Timed, timed
from swarm.bench.turns import differences

PROMPT = 16
_SECONDS = 5


def profile(lab: Lab, plan: Plan) -> Report:
    """One session decodes again and again while client and peers are looked at, `_SECONDS` for each round.

    The prompt is computed anew every time: it should be short beside `plan.tokens`.
    """
    check_sampler()
    ids = lab.prompt(plan.prompt or PROMPT, seed=0)
    local = timed(lab.local, ids, plan.tokens)
    with LocalSwarm() as swarm, TemporaryDirectory(prefix="swarm-profile-") as folder:
        addresses = lab.start_peers(swarm, cut(lab.layers, plan.peers))
        processes = {"client": os.getpid()}
        processes |= {f"hop {i + 1}": peer.process.pid for i, peer in enumerate(swarm.peers)}
        with lab.client(addresses) as model:
            timed(model, ids, plan.tokens)
            lab.tell("profile: decoding")
            runs, busy_ms, found = _look(model, ids, plan, processes, Path(folder))
    times = {name: _times(found[name], busy_ms[name]) for name in processes}
    rows = [_row(place, times) for place in (*PLACES, OTHER)]
    step_ms = 1000 * median(run.step_s for run in runs)
    return Report(
        "profile",
        f"Where a token's time goes, {plan.peers} peers, at position {ids.shape[1]} and after",
        (Column("who", "ms/token"), *(Column(name, name) for name in (*processes, "all"))),
        (
            *(row for row in rows if row["all"]),
            {"who": "computing", **busy_ms, "all": sum(busy_ms.values())},
            {"who": "by the clock", "all": step_ms},
        ),
        Figure("who", ("all",), "ms/token"),
        notes=(
            "Each process's CPU time, as the system counts it, divided as py-spy's samples are. p2pd is not counted.",
        ),
        problems=tuple(differences(runs, [local] * len(runs))),
    )


def _look(
    model: Any, ids: Tensor, plan: Plan, processes: Mapping[str, int], folder: Path
) -> tuple[list[Timed], dict[str, float], dict[str, Counter[str]]]:
    """Generations while all processes were looked at, and of each the CPU time of a token in ms, and its samples."""
    runs: list[Timed] = []
    with ExitStack() as stack:
        before = {name: _cpu_s(pid) for name, pid in processes.items()}
        seconds = _SECONDS * plan.rounds
        samplers = {name: Sampler(pid, seconds, folder / name) for name, pid in processes.items()}
        for sampler in samplers.values():
            stack.callback(sampler.stop)
        while any(sampler.running for sampler in samplers.values()):
            runs.append(timed(model, ids, plan.tokens))
        tokens = len(runs) * plan.tokens
        busy_ms = {name: 1000 * (_cpu_s(pid) - before[name]) / tokens for name, pid in processes.items()}
        return runs, busy_ms, {name: sampler.samples() for name, sampler in samplers.items()}


def _cpu_s(pid: int) -> float:
    times = psutil.Process(pid).cpu_times()
    return float(times.user + times.system)


def _times(samples: Counter[str], busy_ms: float) -> dict[str, float]:
    """The time divided as the samples are."""
    count = max(sum(samples.values()), 1)
    return {place: busy_ms * found / count for place, found in samples.items()}


def _row(place: str, times: Mapping[str, Mapping[str, float]]) -> Row:
    own = {name: found.get(place, 0.0) for name, found in times.items()}
    return {"who": place, **own, "all": sum(own.values())}
