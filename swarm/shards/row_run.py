"""Runs one token of each of several sessions through a program of their layers."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from swarm.shards.flat_run import Item
from swarm.shards.rehearsal import Recording, make_ready, settle
from swarm.shards.step import StepTensors


def run_rows(items: Sequence[Item], recording: Recording) -> list[StepTensors] | None:
    """The outputs of prepared steps, in torch's inference mode; None if they are not of the recording's form.

    All sessions run the same layers of the same shard; `recording` is a compiled one.
    """
    if not all(_is_plain(item) for item in items):
        return None
    run, span, shard = items[0][0].run, items[0][0].span, items[0][0].shard
    lengths = [session.length for session, _ in items]
    noted = run.note_rows(lengths, [session.cache for session, _ in items])
    made = make_ready(recording, noted, [session.cache.of(span) for session, _ in items], lengths)
    if made is None:
        return None
    ready, grown = made
    hidden = torch.cat([step.tensors.hidden for _, step in items], dim=1)
    found = ready(hidden.to(shard.dtype))
    settle(grown)
    return [StepTensors(piece) for piece in torch.split(found, 1, dim=1)]


def _is_plain(item: Item) -> bool:
    """Whether this is one token of one row, and nothing but its hidden state."""
    session, step = item
    tensors = step.tensors
    return session.mask is None and tensors.is_bare and tensors.hidden.shape[:2] == (1, 1)
