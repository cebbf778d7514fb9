"""The benchmarks by name, and running several of them on one model."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from swarm.bench.batching import batching
from swarm.bench.concurrency import concurrency
from swarm.bench.decode import decode
from swarm.bench.failover import failover
from swarm.bench.fairness import fairness
from swarm.bench.lab import Lab
from swarm.bench.long import long
from swarm.bench.memory import memory
from swarm.bench.plan import Plan, Tell
from swarm.bench.prefill import prefill
from swarm.bench.prefix import prefix
from swarm.bench.profile import profile
from swarm.bench.report import Report
from swarm.bench.start import start
from swarm.bench.wan import wan
from swarm.bench.wire import wire

_SUITE: dict[str, Callable[[Lab, Plan], Report]] = {
    "decode": decode,
    "long": long,
    "prefill": prefill,
    "concurrency": concurrency,
    "batching": batching,
    "fairness": fairness,
    "prefix": prefix,
    "failover": failover,
    "wan": wan,
    "wire": wire,
    "start": start,
    "memory": memory,
    "profile": profile,
}


def run(benchmarks: Sequence[str], model: str, plan: Plan, tell: Tell) -> Generator[Report, None, None]:
    """Run the named benchmarks one after the other, each report as soon as it is there.

    `model` is a size or any model; `tell` hears what is going on. Nothing is left behind when the generator is closed.

    Raises:
        SwarmError: one could not be run to its end.
    """
    with TemporaryDirectory(prefix="swarm-bench-") as folder:
        lab = Lab.open(model, Path(folder), tell)
        for name in benchmarks:
            yield _SUITE[name](lab, plan)
