"""How far the shipped placement is from the optimum, and the optimum from the bound that simulations compare with.

    python -m tests.benchmarks.placement_optimum [--peers 5] [--layers 8] [--swarms 20]

Swarms small enough for the solver: the peers of a built-in scenario with a fifth of the layers on each, which join one
after the other and then move until they rest. Printed are means and the worst swarm.
"""

from __future__ import annotations

import argparse
from dataclasses import replace

import numpy as np

from swarm.routing.balance import EPOCH_S, Goal, plan_moves
from swarm.routing.placement import Newcomer, join
from swarm.routing.seats import Board, Seat
from swarm.sim.bound import optimum
from swarm.sim.population import PeerTraits, Population
from swarm.sim.scenario import load_scenario

KINDS = ("stragglers", "heavy_tail", "giant")  # the other scenarios draw the same peers as the first
_MINUTES = 20


def placed(traits: list[PeerTraits], lengths: list[int], layers: int) -> Board:
    """Where the peers are after they have joined one after the other."""
    board = Board(layers, ())
    for one, length in zip(traits, lengths, strict=True):
        span = join(board, Newcomer(one.peer_id, length, one.speed)).span
        board = replace(board, seats=(*board.seats, Seat(one.peer_id, span, one.speed)))
    return board


def rested(board: Board) -> Board:
    """Where they are when nobody wants to move any more."""
    for minute in range(_MINUTES):
        spans = {move.seat.peer_id: move.span for move in plan_moves(board, Goal(), minute * EPOCH_S)}
        seats = (replace(seat, span=spans.get(seat.peer_id, seat.span)) for seat in board.seats)
        board = replace(board, seats=tuple(seats))
    return board


def main() -> None:
    """Measure and print one line for each scenario."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name, default in (("peers", 5), ("layers", 8), ("swarms", 20)):
        parser.add_argument(f"--{name}", type=int, default=default)
    asked = parser.parse_args()
    for name in KINDS:
        bounds, ours = [], []
        for seed in range(asked.swarms):
            story = load_scenario(name).model_copy(update={"n_layers": 5 * asked.layers})
            traits = Population(story, seed).first(asked.peers)
            lengths = [max(one.capacity // 5, 1) for one in traits]
            if sum(lengths) < asked.layers:
                continue
            best = optimum([one.speed for one in traits], lengths, asked.layers)
            board = rested(placed(traits, lengths, asked.layers))
            bounds.append(best / board.best_tokens_per_s)
            ours.append(board.tokens_per_s / best)
        print(
            f"{name}: {len(ours)} swarms, optimum by bound {np.mean(bounds):.3f} (worst {min(bounds):.3f}), "
            f"ours by optimum {np.mean(ours):.3f} (worst {min(ours):.3f})"
        )


if __name__ == "__main__":
    main()
