"""Planned moves under sessions that run: does a token change, is anything computed again, how long are the gaps?

    python -m tests.benchmarks.planned_moves [--moves 20] [--sessions 4] [--model demo] [--still 15]

Three peers on this machine serve two halves of a model (`tests/moving_swarm.py`): with every move all sessions are
handed over. Before, the same sessions run for `--still` seconds without moves, so that one sees what gaps the machine
makes by itself. Prints what was found as JSON; exit status 1 if a token changed or anything was computed again.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from swarm.bench.ratios import percentile
from swarm.bench.sizes import SIZES, save
from swarm.builtin import demo_path
from swarm.client.model import SwarmModel
from swarm.core.span import Span
from tests.moving_swarm import Move, MovingSwarm, Question, Sessions, running
from tests.peers import LocalSwarm, lone_swarm

TOKENS = 600


def gaps(sessions: Sessions) -> list[tuple[float, float]]:
    """Of all answers: when a gap between two tokens ended (`time.perf_counter`), and its seconds."""
    return [
        (answer.begun + later, later - sooner)
        for _, answer in sessions.answers
        for sooner, later in pairwise(answer.times)
    ]


def told(found: Sequence[tuple[float, float]]) -> dict[str, float]:
    """Gaps in milliseconds."""
    seconds = [gap_s for _, gap_s in found]
    usual_s, longest_s = median(seconds), max(seconds)
    return {
        "gaps": len(seconds),
        "median_ms": round(usual_s * 1e3, 2),
        "p99_ms": round(percentile(seconds, 99) * 1e3, 2),
        "longest_ms": round(longest_s * 1e3, 1),
        "longest_by_median": round(longest_s / usual_s, 1),
    }


def longest_of_each(moves: Sequence[Move], found: Sequence[tuple[float, float]]) -> list[float]:
    """The longest gap, in milliseconds, that ended during each move."""
    return [
        round(1e3 * max((s for end, s in found if move.told_s <= end <= move.done_s), default=0.0), 1)
        for move in moves
    ]


def measure(swarm: LocalSwarm, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Run it; what was found, for printing."""
    layers = 8 if options.model == "demo" else SIZES[options.model].layers
    local: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    questions = [Question.of(local, seed, options.tokens) for seed in range(options.sessions)]
    halves = (Span(0, layers // 2), Span(layers // 2, layers))
    peers = MovingSwarm(swarm, folder, halves, "--dtype", "float32")
    with SwarmModel.from_pretrained(folder, peers=peers.addresses) as model:
        with running(model, questions) as still:
            time.sleep(options.still)
        before = peers.computed_tokens()
        with running(model, questions) as moved:
            for _ in range(options.moves):
                peers.move()
        stats, computed = model.stats, peers.computed_tokens() - before
    found = gaps(moved)
    return {
        "model": options.model, "moves": len(peers.moves), "sessions": options.sessions,
        "handovers": stats.handovers, "failovers": stats.failovers, "replans": stats.replans,
        "answers": len(moved.answers) + len(still.answers), "wrong": moved.wrong + still.wrong,
        "tokens_compared": sum(len(question.expected) for question, _ in moved.answers),
        "tokens_computed_again": computed - 2 * moved.forwarded, "tokens_replayed": stats.replayed_tokens,
        "without_moves": told(gaps(still)), "with_moves": told(found),
        "longest_ms_of_each_move": longest_of_each(peers.moves, found),
        "move_s": {"median": round(median(m.done_s - m.told_s for m in peers.moves), 2),
                   "longest": round(max(m.done_s - m.told_s for m in peers.moves), 2)},
    }  # fmt: skip


@contextmanager
def checkpoint(model: str) -> Iterator[Path]:
    """The folder of the demo model, or of a random one of this size."""
    if model == "demo":
        yield demo_path()
        return
    with tempfile.TemporaryDirectory() as folder:
        yield save(SIZES[model], Path(folder))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--moves", type=int, default=20)
    parser.add_argument("--sessions", type=int, default=4)
    parser.add_argument("--tokens", type=int, default=TOKENS, help="of each answer")
    parser.add_argument("--model", choices=["demo", *SIZES], default="demo")
    parser.add_argument("--still", type=float, default=15.0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    with checkpoint(options.model) as model, lone_swarm() as (swarm, left):
        found = measure(swarm, model, options)
    print(json.dumps(found, indent=2))
    again = found["tokens_computed_again"] or found["tokens_replayed"] or found["failovers"]
    return int(bool(found["wrong"] or again or left))


if __name__ == "__main__":
    sys.exit(main())
