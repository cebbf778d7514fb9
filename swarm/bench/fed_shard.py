"""A shard in this process, fed with random states: what a peer computes and holds, without network."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from swarm.bench.lab import Lab, cut
from swarm.core.errors import SwarmError
from swarm.shards.batch import apply_batch
from swarm.shards.foreign_code import random_tensors
from swarm.shards.products import limit_threads
from swarm.shards.session import ShardSession
from swarm.shards.shard import Shard
from swarm.shards.step import Step

PIECE = 256


def first_shard(lab: Lab, peers: int) -> Shard:
    """The layers of the first of so many peers, loaded as there, in one thread."""
    limit_threads(1)
    span = cut(lab.layers, peers)[0]
    lab.tell(f"loading layers {span}")
    return Shard.load(lab.source, span, dtype=torch.float32, device=torch.device("cpu"))


def feed(sessions: Sequence[ShardSession], tokens: int, piece: int = PIECE) -> None:
    """So many random states for each session, in pieces; one batch of all sessions for each piece.

    Raises:
        SwarmError: a step failed.
    """
    for start in range(0, tokens, piece):
        count = min(piece, tokens - start)
        items = []
        for session in sessions:
            states = random_tensors(session.shard, session.span, torch.default_generator, tokens=count)
            items.append((session, Step(session.last_step + 1, session.length, states)))
        for outcome in apply_batch(items):
            if isinstance(outcome, Exception):
                raise SwarmError(f"a step failed: {outcome}") from outcome
