"""Recorded decode steps, ready to be run: programs of layers with all their inputs but the hidden state."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import torch
from torch import Tensor
from torch.utils._pytree import TreeSpec, tree_flatten, tree_unflatten

from swarm.core.span import Span
from swarm.shards.ahead import Foreseen, Prepared
from swarm.shards.room import GrowingLayer
from swarm.shards.window import LayerArguments

if TYPE_CHECKING:
    from swarm.shards.cache import ShardCache, SpanCache

_HIDDEN, _CACHE, _TENSOR = object(), object(), object()


@dataclass(frozen=True, slots=True)
class CallForm:
    """How a layer is called, whatever its tensors hold: the tree of its arguments, and all leaves but tensors."""

    tree: TreeSpec
    leaves: tuple[Any, ...]

    def arguments(
        self, hidden: Tensor, cache: SpanCache, tensors: Iterator[Tensor]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Positional and named arguments of such a call; takes from `tensors` what it needs."""
        filled: list[Any] = []
        for leaf in self.leaves:
            if leaf is _HIDDEN:
                filled.append(hidden)
            elif leaf is _CACHE:
                filled.append(cache)
            else:
                filled.append(next(tensors) if leaf is _TENSOR else leaf)
        args, kwargs = tree_unflatten(filled, self.tree)
        return args, kwargs


def taken_apart(call: LayerArguments, cache: SpanCache) -> tuple[CallForm, tuple[Tensor, ...]]:
    """The form of a noted call, and its tensors besides the hidden state."""
    _, args, kwargs = call
    if args:
        args = (_HIDDEN, *args[1:])
    else:
        kwargs = {**kwargs, "hidden_states": _HIDDEN}
    found, tree = tree_flatten((args, kwargs))
    leaves = tuple(
        _CACHE if leaf is cache else _TENSOR if isinstance(leaf, Tensor) else leaf for leaf in found
    )
    return CallForm(tree, leaves), tuple(leaf for leaf in found if isinstance(leaf, Tensor))


GrownViews = tuple[Tensor, Tensor, Tensor, Tensor]
"""Buffers `[1, K, capacity, D]` for the keys and values of the next token, and views of all that they hold then."""


def grown_views(layer: GrowingLayer, length: int) -> GrownViews:
    """Those of a layer that holds `length` tokens."""
    keys, values = layer.reserve()
    return keys, values, keys[..., : length + 1, :], values[..., : length + 1, :]


class LayerInputs(NamedTuple):
    """What a layer's program takes besides the hidden state: a cache for each row, and the tensors of its call."""

    caches: Sequence[GrownViews]
    tensors: Sequence[Tensor]


class Program(Protocol):
    """What some layers compute for the next token of one row."""

    def ready(
        self, lengths: Sequence[int], inputs: Sequence[LayerInputs]
    ) -> Callable[[Tensor], Tensor] | None:
        """All but the hidden state `[1, 1, ...]` of the token at position `lengths[0]`; None if the inputs do not fit.

        What this returns may be called once.
        """
        ...


@dataclass(frozen=True, slots=True)
class TracedProgram:
    """A program of torch: `function(hidden, at, *inputs)`, layer by layer `GrownViews` and the tensors of its call."""

    function: Any

    def ready(
        self, lengths: Sequence[int], inputs: Sequence[LayerInputs]
    ) -> Callable[[Tensor], Tensor] | None:
        """See `Program`."""
        given = [torch.tensor(lengths)]
        for layer in inputs:
            given += [*layer.caches[0], *layer.tensors]

        def run(hidden: Tensor) -> Tensor:
            found: Tensor = self.function(hidden, *given)
            return found

        return run


@dataclass(frozen=True, slots=True)
class Recording:
    """A span's program, and the form of each layer's call."""

    forms: tuple[CallForm, ...]
    program: Program


@dataclass(frozen=True, slots=True)
class Grown:
    """A cache layer, and what it holds once the token is in its buffers."""

    layer: GrowingLayer
    keys: Tensor
    values: Tensor

    def settle(self) -> None:
        """The token is there."""
        self.layer.keys, self.layer.values = self.keys, self.values


@dataclass(frozen=True, slots=True)
class Rehearsed(Foreseen):
    """A recording with all its inputs but the hidden state, ready for one token at position `length`."""

    call: Callable[[Tensor], Tensor]
    grown: tuple[Grown, ...]

    def run(self, hidden: Tensor) -> Tensor:
        """The hidden state after the span."""
        found = self.call(hidden)
        for grown in self.grown:
            grown.settle()
        return found


def rehearse(prepared: Prepared, span: Span, cache: ShardCache, recording: Recording) -> Foreseen:
    """The recording in place of the calls of layers `span`; `prepared` itself if it does not fit them."""
    inputs, grown = [], []
    for layer, call, recorded in zip(cache.of(span), prepared.calls, recording.forms, strict=True):
        if not can_grow(layer):
            return prepared
        form, tensors = taken_apart(call, cache)
        if form != recorded:
            return prepared
        views = grown_views(layer, prepared.length)
        inputs.append(LayerInputs([views], tensors))
        grown.append(Grown(layer, *views[2:]))
    ready = recording.program.ready([prepared.length], inputs)
    return prepared if ready is None else Rehearsed(prepared.length, ready, tuple(grown))


def can_grow(layer: Any) -> bool:
    """Whether a program can write into this cache layer."""
    return type(layer) is GrowingLayer and bool(layer.is_initialized)
