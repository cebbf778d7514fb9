"""Where client and hops spend the time of a token: a profile of decode steps, process by process."""

from __future__ import annotations

import os
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

from swarm.bench.lab import Lab, cut
from swarm.bench.local_swarm import LocalSwarm
from swarm.bench.plan import Plan
from swarm.bench.report import Column, Figure, Report, Row
from swarm.bench.sampler import OTHER, PLACES, RATE, Sampler, check_sampler
from swarm.bench.timed import Timed, timed
from swarm.bench.turns import differences

PROMPT = 16
_SECONDS = 5


def profile(lab: Lab, plan: Plan) -> Report:
    """One session decodes again and again while client and peers are looked at, `_SECONDS` for each round."""
    check_sampler()
    ids = lab.prompt(plan.prompt or PROMPT, seed=0)
    local = timed(lab.local, ids, plan.tokens)
    with LocalSwarm() as swarm:
        addresses = lab.start_peers(swarm, cut(lab.layers, plan.peers))
        processes = {"client": os.getpid()}
        processes |= {f"hop {i + 1}": peer.process.pid for i, peer in enumerate(swarm.peers)}
        with lab.client(addresses) as model:
            timed(model, ids, plan.tokens)
            lab.tell("profile: decoding")
            seconds = _SECONDS * plan.rounds
            with TemporaryDirectory(prefix="swarm-profile-") as folder, ExitStack() as stack:
                samplers = {
                    name: Sampler(pid, seconds, Path(folder) / name) for name, pid in processes.items()
                }
                for sampler in samplers.values():
                    stack.callback(sampler.stop)
                runs: list[Timed] = []
                while any(sampler.running for sampler in samplers.values()):
                    runs.append(timed(model, ids, plan.tokens))
                found = {name: sampler.samples() for name, sampler in samplers.items()}
    step_ms = 1000 * median(run.step_s for run in runs)
    per_sample = step_ms / (seconds * RATE)
    rows = [_row(place, found, per_sample) for place in (*PLACES, OTHER)]
    rows = [row for row in rows if row["all"]]
    busy = {name: Counter({"computing": sum(samples.values())}) for name, samples in found.items()}
    return Report(
        "profile",
        f"Where a token's time goes, {plan.peers} peers, at position {ids.shape[1]} and after",
        (Column("who", "ms/token"), *(Column(name, name) for name in (*found, "all"))),
        (*rows, _row("computing", busy, per_sample), {"who": "by the clock", "all": step_ms}),
        Figure("who", ("all",), "ms/token"),
        notes=(
            "Sampled by py-spy, which does not see p2pd and the kernel. Waiting for a core counts as computing.",
        ),
        problems=tuple(differences(runs, [local] * len(runs))),
    )


def _row(place: str, found: dict[str, Counter[str]], per_sample: float) -> Row:
    times = {name: per_sample * samples[place] for name, samples in found.items()}
    return {"who": place, **times, "all": sum(times.values())}
