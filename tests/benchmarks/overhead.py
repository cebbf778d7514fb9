"""Tokens per second over peers on this machine, against the local transformers model in the same run.

python -m tests.benchmarks.overhead --size A --peers 3 --tokens 128 --rounds 7

One torch thread per process, float32, loopback. Local and swarm take turns; the ratio of each round is taken, and the
median of the ratios is the result, because the machine's speed drifts.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from swarm import SwarmModel
from tests.benchmarks.models import SIZES, save
from tests.peers import LocalSwarm
from tests.processes import Zygote


def seconds(work: Callable[[], Any]) -> tuple[float, Any]:
    """How long `work` takes, and its result."""
    begun = time.perf_counter()
    result = work()
    return time.perf_counter() - begun, result


def measure(local: Any, model: Any, vocabulary: int, tokens: int, rounds: int) -> list[tuple[float, float]]:
    """`(local, swarm)` tokens per second of each round; the first one warms up and does not count."""
    ids = torch.randint(5, vocabulary, (1, 16), generator=torch.Generator().manual_seed(1))
    options = {"do_sample": False, "pad_token_id": 0, "max_new_tokens": tokens, "min_new_tokens": tokens}
    rates = []
    for _ in range(rounds + 1):
        local_s, expected = seconds(lambda: local.generate(ids, **options))
        swarm_s, found = seconds(lambda: model.generate(ids, **options))
        assert torch.equal(found, expected), "the swarm's tokens differ from the local model's"
        rates.append((tokens / local_s, tokens / swarm_s))
    return rates[1:]


def spans(layers: int, peers: int) -> list[str]:
    """Equal spans, as `A:B`."""
    edges = [round(layers * i / peers) for i in range(peers + 1)]
    return [f"{a}:{b}" for a, b in pairwise(edges)]


def run(size: str, peers: int, tokens: int, rounds: int) -> dict[str, Any]:
    """Start the peers, measure, stop them."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="overhead-") as name:
        folder = save(size, Path(name) / "model")
        zygote = Zygote(Path(name) / "zygote.log")
        try:
            with LocalSwarm(zygote) as swarm:
                for span in spans(SIZES[size].layers, peers):
                    swarm.serve(folder, span, "--threads", "1")
                auto: Any = AutoModelForCausalLM
                local = auto.from_pretrained(folder, dtype=torch.float32)
                with SwarmModel.from_pretrained(folder, peers=swarm.addresses[:1]) as model:
                    rates = measure(local, model, SIZES[size].vocabulary, tokens, rounds)
        finally:
            zygote.close()
    ratios = [swarm / local for local, swarm in rates]
    local_rate, swarm_rate = (statistics.median(column) for column in zip(*rates, strict=True))
    return {
        "size": size,
        "peers": peers,
        "local_tokens_per_s": round(local_rate, 1),
        "swarm_tokens_per_s": round(swarm_rate, 1),
        "ratio": round(statistics.median(ratios), 3),
        "ratios": [round(ratio, 3) for ratio in ratios],
        "ms_per_token_added": round(1000 / swarm_rate - 1000 / local_rate, 2),
    }


def main() -> None:
    """Parse the command line, run, and print one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", choices=sorted(SIZES), default="A")
    parser.add_argument("--peers", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    print(json.dumps(run(options.size, options.peers, options.tokens, options.rounds)))


if __name__ == "__main__":
    main()
