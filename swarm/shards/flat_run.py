"""Runs the prepared steps of several sessions in one forward `[1, all their tokens, hidden]`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from swarm.shards.flat_attention import FlatCache, Segment, Way, flat_attention
from swarm.shards.session import ShardSession
from swarm.shards.step import Step, StepTensors

Item = tuple[ShardSession, Step]


def can_join(item: Item) -> bool:
    """Whether a step can be a part of a flat batch, once it is prepared.

    Beside padding, only the stack knows what positions it would number by default.
    """
    session, step = item
    return session.mask is None or step.tensors.positions is not None


def run_flat(items: Sequence[Item], way: Way) -> list[StepTensors]:
    """The outputs of prepared steps, in torch's inference mode; all sessions run the same layers of the same shard."""
    run = items[0][0].run
    segments = [
        Segment(step.tensors.rows, step.tensors.tokens, session.cache.layers, session.mask)
        for session, step in items
    ]
    cache = FlatCache(segments, way)
    with flat_attention(items[0][0].shard.attention_configs, cache):
        hidden, _ = run.forward(_join(items), cache, None)
    pieces = torch.split(hidden, cache.sizes, dim=1)
    return [
        run.passed_on(step.tensors, piece.reshape(step.tensors.hidden.shape))
        for (_, step), piece in zip(items, pieces, strict=True)
    ]


def attention_configs(stack: nn.Module) -> list[Any]:
    """The configurations from which the modules of `stack` read how they shall attend."""
    found = {id(config): config for config in (getattr(m, "config", None) for m in stack.modules())}
    return [config for config in found.values() if hasattr(config, "_attn_implementation")]


def _join(items: Sequence[Item]) -> StepTensors:
    """All tokens of all rows in one row."""
    steps = [step.tensors for _, step in items]
    return StepTensors(
        hidden=_row([tensors.hidden for tensors in steps]),
        positions=_row([_positions(session, step.tensors) for session, step in items]),
        token_ids=_optional(steps, lambda tensors: tensors.token_ids),
        embeds=_optional(steps, lambda tensors: tensors.embeds),
        per_layer=_optional(steps, lambda tensors: tensors.per_layer),
    )


def _positions(session: ShardSession, tensors: StepTensors) -> Tensor:
    if tensors.positions is not None:
        return tensors.positions
    start = session.length
    return torch.arange(start, start + tensors.tokens).expand(tensors.rows, -1)


def _optional(steps: list[StepTensors], pick: Callable[[StepTensors], Tensor | None]) -> Tensor | None:
    # whether a model's steps have such a tensor was checked for each of them: all or none
    found = [value for value in map(pick, steps) if value is not None]
    return _row(found) if found else None


def _row(tensors: list[Tensor]) -> Tensor:
    return torch.cat([tensor.reshape(1, -1, *tensor.shape[2:]) for tensor in tensors], dim=1)
