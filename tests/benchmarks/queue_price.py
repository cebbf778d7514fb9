"""What callers get if a peer's queue is charged once per visit, or by the layers that a chain uses.

    python -m tests.benchmarks.queue_price [--peers 50] [--swarms 4]

Peers of the scenario `stragglers` join one after the other; 100 callers want 90% of what the placement serves at most,
take the cheapest chain one after the other, and look again once. Printed is which part of it they get, on average.
"""

from __future__ import annotations

import argparse
from dataclasses import replace

import numpy as np

from swarm.routing import chain
from swarm.routing.placement import Newcomer, join
from swarm.routing.seats import Board
from swarm.sim.population import Population
from swarm.sim.routed import Roads
from swarm.sim.scenario import load_scenario
from swarm.sim.world import SimPeer

CALLERS, LOAD = 100, 0.9


def swarm(count: int, seed: int) -> tuple[list[SimPeer], Board]:
    """Peers where the shipped policy puts them."""
    story = load_scenario("stragglers")
    board, peers = Board(story.n_layers, ()), []
    for traits in Population(story, seed).first(count):
        span = join(board, Newcomer(traits.peer_id, traits.capacity, traits.speed)).span
        peers.append(SimPeer(traits, span, ready=True, announced=traits.speed))
        board = replace(board, seats=(*board.seats, peers[-1].seat()))
    return peers, board


def main() -> None:
    """Measure and print one line for each share."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name, default in (("peers", 50), ("swarms", 4)):
        parser.add_argument(f"--{name}", type=int, default=default)
    asked = parser.parse_args()
    for share in (1.0, chain.QUEUE_PER_VISIT, 0.0):
        chain.QUEUE_PER_VISIT = share
        parts = []
        for seed in range(asked.swarms):
            peers, board = swarm(asked.peers, seed)
            places = Population(load_scenario("stragglers"), seed)
            rng = np.random.default_rng(seed)
            wanted = LOAD * board.tokens_per_s
            callers = [places.position(rng) for _ in range(CALLERS)]
            parts.append(Roads(peers, board.n_layers).served(callers, wanted) / wanted)
        print(f"{share:.0%} of the queue per visit: {np.mean(parts):.3f} (worst {min(parts):.3f})")


if __name__ == "__main__":
    main()
