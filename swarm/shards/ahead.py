"""What a stack computes before and between its layers (masks, rotary positions), done before the step is there.

The received hidden state enters at the first layer of the span, so all that a stack does before it depends only on
how much is cached. Right after a decode step, while others compute, the stack's own `forward` is run for the next
token with layers that note what they are called with. When that token comes, the layers are called so at once.
Measured on an AMD EPYC, three small layers after milliseconds of anything else: 0.27 of 2.1 ms.

A stack may do something with the hidden state between its layers. So a shard looks ahead only if a trial gave exactly
what the usual way gives.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from swarm.shards.flat_attention import FlatCache, Segment, flat_attention
from swarm.shards.foreign_code import CANNOT_TRY, random_tensors
from swarm.shards.step import Step
from swarm.shards.window import LayerArguments

if TYPE_CHECKING:
    from swarm.shards.session import ShardSession
    from swarm.shards.shard import Shard

_TRIAL = (5, 1, 1, 2, 1, 1)  # tokens of its steps


class TokenMemory(NamedTuple):
    """Where a token's hidden state will stand, and where its output may: both `[1, 1, ...]`, on the CPU."""

    hidden: Tensor
    output: Tensor


@dataclass(frozen=True, slots=True)
class Foreseen:
    """Something that is ready to run for one token at position `length`."""

    length: int

    def fits(self, step: Step, length: int) -> bool:
        """Whether `step` is that token: one row, nothing reordered, and nothing but its hidden state."""
        tensors = step.tensors
        plain = step.select_rows is None and tensors.is_bare
        return plain and tensors.hidden.shape[:2] == (1, 1) and step.start == length == self.length

    def run(self, hidden: Tensor) -> Tensor:
        """The hidden state after the span."""
        raise NotImplementedError

    def bound(self, memory: TokenMemory) -> Callable[[], None] | None:
        """What runs it in this memory without a call of torch, where that is possible; it may be called once."""
        return None

    def after(self) -> Foreseen | None:
        """The same for the token after this one, which has run; None if that has to be prepared anew."""
        return None


@dataclass(frozen=True, slots=True)
class Prepared(Foreseen):
    """How the layers of a span are to be called for that token."""

    calls: tuple[LayerArguments, ...]

    def run(self, hidden: Tensor) -> Tensor:
        """The hidden state after the span."""
        for layer, args, kwargs in self.calls:
            given = (hidden, *args[1:]) if args else ()
            hidden = layer(*given, **(kwargs if args else {**kwargs, "hidden_states": hidden}))
        return hidden


@dataclass(frozen=True, slots=True)
class PreparedFlat(Foreseen):
    """The same where the layers attend flat, over `cache`; `configs` are what they read how to attend from."""

    prepared: Prepared
    cache: FlatCache
    configs: Sequence[Any]

    def run(self, hidden: Tensor) -> Tensor:
        """The hidden state after the span."""
        with flat_attention(self.configs, self.cache):
            return self.prepared.run(hidden)


def prepare_flat(session: ShardSession) -> PreparedFlat:
    """What `run_flat` would do for the next token of a session of one row, as far as it can be done before."""
    configs = session.shard.attention_configs
    cache = FlatCache([Segment(1, 1, session.cache.layers, None)], "flat")
    cache.seen = session.length
    with flat_attention(configs, cache):
        prepared = session.run.note_next(session.length, cache)
    return PreparedFlat(session.length, prepared, cache, configs)


def can_look_ahead(shard: Shard) -> bool:
    """Whether steps that were prepared give exactly what others give, for all layers of the shard together."""
    if not _is_plain(shard):
        return False
    usual, ahead = (shard.open(shard.span, rollback=True) for _ in range(2))
    dice = torch.Generator().manual_seed(0)
    start = 0
    try:
        for number, tokens in enumerate(_TRIAL):
            step = Step(number, start, random_tensors(shard, shard.span, dice, tokens=tokens))
            expected, found = usual.apply(step).hidden, _prepared_apply(ahead, step)
            if not torch.equal(expected, found):
                return False
            start += tokens
    except CANNOT_TRY:
        return False
    return True


def _is_plain(shard: Shard) -> bool:
    traits, call = shard.traits, shard.call
    more = traits.needs_token_ids or traits.needs_embeds or traits.per_layer_width
    recurs = not traits.chunkable or not traits.croppable
    return not (more or recurs or call.returns_tuple or shard.boundary.axis)


def _prepared_apply(session: ShardSession, step: Step) -> Tensor:
    if step.start:
        session.next.prepare()
    return session.apply(step).hidden
