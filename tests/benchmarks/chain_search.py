"""How long the search for the cheapest chain takes in large swarms.

    python -m tests.benchmarks.chain_search [--peers 1000] [--layers 80] [--rounds 5]

Peers at random places of a model, with random speeds, queues and 32 published links each; the client has measured 64.
The time is that of `find_chain` alone, in seconds of one core, its longest and median round; another client each round.
"""

from __future__ import annotations

import argparse
import statistics
import time

import numpy as np

from swarm.core.span import Span
from swarm.routing.chain import ChainRequest, find_chain
from swarm.routing.latency import LatencyTable
from swarm.routing.records import MAX_LINKS, PeerRecord
from tests.records import make_record, make_view

MEASURED = 64


def swarm(count: int, layers: int, rng: np.random.Generator) -> list[PeerRecord]:
    """Peers of 4 to 19 layers, log-normal speeds, exponential queues, and links to random others."""
    made = []
    for n in range(count):
        length = min(int(rng.integers(4, 20)), layers)
        start = int(rng.integers(0, layers - length + 1))
        others = rng.integers(0, count, MAX_LINKS)
        made.append(
            make_record(
                f"peer{n:06d}",
                (start, start + length),
                layers,
                seconds_per_layer=float(rng.lognormal(-5.0, 0.7)),
                queue_s=float(rng.exponential(0.02)),
                links={f"peer{other:06d}": float(rng.uniform(0.005, 0.15)) for other in others},
            )
        )
    return made


def main() -> None:
    """Measure and print one line."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name, default in (("peers", 1000), ("layers", 80), ("rounds", 5)):
        parser.add_argument(f"--{name}", type=int, default=default)
    asked = parser.parse_args()
    rng = np.random.default_rng(0)
    records = swarm(asked.peers, asked.layers, rng)
    view, whole = make_view(*records), Span(0, asked.layers)
    times = []
    for n in range(asked.rounds + 1):
        links = LatencyTable()
        links.publish(records)
        for other in rng.integers(0, asked.peers, MEASURED):
            links.observe_rtt(f"client{n}", f"peer{other:06d}", float(rng.uniform(0.01, 0.2)))
        started = time.process_time()
        chain = find_chain(view, whole, ChainRequest(f"client{n}", f"client{n}", links))
        times.append(time.process_time() - started)
    median_s, longest_s = statistics.median(times[1:]), max(times[1:])  # the first round warms up
    took = f"median {median_s * 1e3:.0f} ms, longest {longest_s * 1e3:.0f} ms"
    print(f"{asked.peers} peers x {asked.layers} layers: {took}, the last chain has {len(chain.hops)} hops")


if __name__ == "__main__":
    main()
