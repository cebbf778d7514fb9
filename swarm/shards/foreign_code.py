"""Running an architecture's own code with inputs made up here, to see what it does."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from swarm.core.errors import SwarmError
from swarm.shards.step import StepTensors

if TYPE_CHECKING:
    from swarm.core.span import Span
    from swarm.shards.shard import Shard

CANNOT_RUN = (RuntimeError, ValueError, TypeError, AttributeError, KeyError, IndexError)
"""What it raises when it meets a cache or an input of a kind that it does not expect."""

CANNOT_TRY = (SwarmError, *CANNOT_RUN)
"""The same, or our own refusal."""


def random_tensors(
    shard: Shard, span: Span, dice: torch.Generator, *, rows: int = 1, tokens: int = 1
) -> StepTensors:
    """A step in the form that layers `span` expect, with random states and token ids."""

    def drawn(like: torch.Tensor) -> torch.Tensor:
        if like.is_floating_point():
            return torch.randn(like.shape, generator=dice).to(like.dtype)
        return torch.randint(shard.form.vocabulary, like.shape, generator=dice)

    example = shard.example(span, rows=rows, tokens=tokens)
    return StepTensors.from_named({name: drawn(value) for name, value in example.named().items()})
