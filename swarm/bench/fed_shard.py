"""A shard in this process, fed with random states: what a peer computes and holds, without network."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from swarm.bench.lab import Lab, cut
from swarm.core.errors import SwarmError
from swarm.shards.batch import apply_batch
from swarm.shards.products import limit_threads
from swarm.shards.session import ShardSession
from swarm.shards.shard import Shard
from swarm.shards.step import Step, StepTensors

PIECE = 256


def first_shard(lab: Lab, peers: int) -> Shard:
    """The layers of the first of so many peers, loaded as there, in one thread."""
    limit_threads(1)
    span = cut(lab.layers, peers)[0]
    lab.tell(f"loading layers {span}")
    return Shard.load(lab.source, span, dtype=torch.float32, device=torch.device("cpu"))


def feed(sessions: Sequence[ShardSession], tokens: int) -> None:
    """So many random states for each session, in pieces; one batch of all sessions for each piece.

    Raises:
        SwarmError: a step failed.
    """
    for start in range(0, tokens, PIECE):
        count = min(PIECE, tokens - start)
        items = []
        for session in sessions:
            states = torch.randn(1, count, session.shard.hidden_size)
            items.append((session, Step(session.last_step + 1, session.length, StepTensors(states))))
        for outcome in apply_batch(items):
            if isinstance(outcome, Exception):
                raise SwarmError(f"a step failed: {outcome}") from outcome
