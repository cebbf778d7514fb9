"""Decode over one and over three peers of several checkouts of this repository, all up at once, in turns.

    python -m tests.benchmarks.versions CHECKOUT... [--size A] [--tokens 40] [--rounds 40]

On a machine whose speed drifts, what a hop costs in one run says little beside another run. The client is that of the
checkout in which this runs; the peers of each checkout run with the same Python and libraries. Printed are medians of
the rounds, each of which counts the median of its steps, and how often tokens were not those of the local model.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from swarm.bench.local_swarm import LocalSwarm, Place
from swarm.bench.ratios import per_hop, ratio
from swarm.bench.sizes import SIZES, save
from swarm.client.model import SwarmModel
from swarm.shards.products import limit_threads

LENGTHS = (1, 3)
PROMPT = 16


def chain(swarm: LocalSwarm, checkout: Path, model: Path, layers: int, peers: int) -> Any:
    """A client of a chain of peers that run the code of a checkout."""
    place = Place(prefix=("env", "-C", str(checkout), f"PYTHONPATH={checkout}"))
    bounds = [round(layers * i / peers) for i in range(peers + 1)]
    addresses: list[str] = []
    for start, end in pairwise(bounds):
        name = f"{len(swarm.peers)}"
        peer = swarm.serve(name, str(model), f"{start}:{end}", addresses[:1], place=place)
        addresses += swarm.wait_ready(peer)
    return SwarmModel.from_pretrained(str(model), peers=addresses[:1])


def timed(model: Any, prompt: torch.Tensor, tokens: int) -> tuple[float, list[int]]:
    """The median time from one token to the next, in ms, and the tokens."""
    moments: list[float] = []

    def note(_: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        moments.append(perf_counter())
        return scores

    found = model.generate(
        prompt, do_sample=False, max_new_tokens=tokens, min_new_tokens=tokens, logits_processor=[note]
    )
    return 1000 * median(b - a for a, b in pairwise(moments[1:])), found[0].tolist()


def table(times: dict[Any, list[float]], checkouts: Sequence[Path]) -> str:
    """A line for the local model, and one for each checkout."""
    lines = [f"local {median(times['local']):.2f} ms a token"]
    for checkout in checkouts:
        one, three = (times[checkout, peers] for peers in LENGTHS)
        cells = [f"{median(own):.2f} ({ratio(times['local'], own).median:.2f})" for own in (one, three)]
        hop_ms = median(per_hop(one, three, LENGTHS[-1]))
        lines.append(f"{checkout}: 1 peer {cells[0]}, 3 peers {cells[1]}, an added hop {hop_ms:.2f} ms")
    return "\n".join(lines)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkouts", nargs="+", type=lambda text: Path(text).resolve(strict=True))
    parser.add_argument("--size", choices=SIZES, default="A")
    parser.add_argument("--tokens", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=40)
    asked = parser.parse_args()
    limit_threads(1)
    size = SIZES[asked.size]
    prompt = torch.arange(PROMPT)[None]
    with TemporaryDirectory() as folder, LocalSwarm() as swarm:
        model = save(size, Path(folder))
        models: dict[Any, Any] = {"local": AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)}
        for checkout in asked.checkouts:
            for peers in LENGTHS:
                models[checkout, peers] = chain(swarm, checkout, model, size.layers, peers)
        times: dict[Any, list[float]] = {who: [] for who in models}
        expected, wrong = timed(models["local"], prompt, asked.tokens)[1], 0
        order = list(models)
        for number in range(asked.rounds + 1):
            random.shuffle(order)
            for who in order:
                spent_ms, found = timed(models[who], prompt, asked.tokens)
                wrong += found != expected
                if number:  # the first round warms up
                    times[who].append(spent_ms)
        print(table(times, asked.checkouts))
        print(f"{wrong} answers were not the local model's")


if __name__ == "__main__":
    main()
