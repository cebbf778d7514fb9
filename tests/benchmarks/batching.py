"""How much faster a shard decodes for several sessions in one batch than one by one.

    python -m tests.benchmarks.batching [--sessions 16] [--layers 16] [--position 64] [--rounds 5]

One thread, float32, random weights, hidden 1024 (16 heads, 8 key heads, intermediate 2816). Both ways alternate within
one run, each on sessions of its own; the times are medians of a round in which every session gets one token.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from swarm.core.config import ModelConfig
from swarm.core.span import Span
from swarm.shards.batch import apply_batch
from swarm.shards.session import ShardSession
from swarm.shards.shard import Shard
from swarm.shards.source import ModelSource
from swarm.shards.step import Step, StepTensors


def load(layers: int, folder: Path) -> Shard:
    """A shard that holds all layers of a random model."""
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=1024,
        num_hidden_layers=layers,
        num_attention_heads=16,
        num_key_value_heads=8,
        intermediate_size=2816,
        vocab_size=8000,
        max_position_embeddings=16384,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    source = ModelSource.open(ModelConfig(str(folder)))
    return Shard.load(source, Span(0, layers), dtype=torch.float32, device=torch.device("cpu"))


def prefilled(shard: Shard, count: int, position: int) -> list[ShardSession]:
    """Sessions that hold `position` tokens each."""
    sessions = [shard.open(shard.span, rollback=True) for _ in range(count)]
    for session in sessions:
        session.apply(Step(0, 0, StepTensors(torch.randn(1, position, shard.hidden_size))))
    return sessions


def next_steps(sessions: list[ShardSession]) -> list[tuple[ShardSession, Step]]:
    """One new token for each session."""
    made = []
    for session in sessions:
        token = StepTensors(torch.randn(1, 1, session.shard.hidden_size))
        made.append((session, Step(session.last_step + 1, session.length, token)))
    return made


def batched(sessions: list[ShardSession]) -> None:
    """One round in one forward."""
    for outcome in apply_batch(next_steps(sessions)):
        assert isinstance(outcome, StepTensors)


def one_by_one(sessions: list[ShardSession]) -> None:
    """One round, each session by itself."""
    for session, step in next_steps(sessions):
        session.apply(step)


def seconds(run: Callable[[], None]) -> float:
    """How long one call takes."""
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


def main() -> None:
    """Measure and print one table row."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name, default in (("sessions", 16), ("layers", 16), ("position", 64), ("rounds", 5)):
        parser.add_argument(f"--{name}", type=int, default=default)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        shard = load(asked.layers, Path(folder))
    together, apart = (prefilled(shard, asked.sessions, asked.position) for _ in range(2))
    times: dict[str, list[float]] = {"batched": [], "one by one": []}
    for _ in range(asked.rounds):
        times["batched"].append(seconds(lambda: batched(together)))
        times["one by one"].append(seconds(lambda: one_by_one(apart)))
    batch_s, single_s = (statistics.median(times[name]) for name in ("batched", "one by one"))
    print(
        f"{shard.batching}: {asked.sessions} sessions x 1 token at {asked.position}, {asked.layers} layers: "
        f"one by one {single_s * 1e3:.0f} ms, batched {batch_s * 1e3:.0f} ms, ratio {single_s / batch_s:.1f}"
    )


if __name__ == "__main__":
    main()
