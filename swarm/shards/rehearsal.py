"""Recorded decode steps, ready to be run: programs of layers with all their inputs but the hidden state."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

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


@dataclass(frozen=True, slots=True)
class Recording:
    """A span's program: `program(hidden, at, *inputs)` is the hidden state after the token at position `at`.

    `inputs` are, layer by layer, `GrownViews` and the tensors of the layer's call besides the hidden state.
    """

    forms: tuple[CallForm, ...]
    program: Any


@dataclass(frozen=True, slots=True)
class _Grown:
    """A cache layer, and what it holds once the token is in its buffers."""

    layer: GrowingLayer
    keys: Tensor
    values: Tensor


@dataclass(frozen=True, slots=True)
class Rehearsed(Foreseen):
    """A recording with all its inputs but the hidden state, ready for one token at position `length`."""

    program: Any
    inputs: tuple[Tensor, ...]
    grown: tuple[_Grown, ...]

    def run(self, hidden: Tensor) -> Tensor:
        """The hidden state after the span."""
        found: Tensor = self.program(hidden, *self.inputs)
        for grown in self.grown:
            grown.layer.keys, grown.layer.values = grown.keys, grown.values
        return found


def rehearse(prepared: Prepared, span: Span, cache: ShardCache, recording: Recording) -> Foreseen:
    """The recording in place of the calls of layers `span`; `prepared` itself if it does not fit them."""
    inputs = [torch.tensor([prepared.length])]
    grown = []
    for layer, call, recorded in zip(cache.of(span), prepared.calls, recording.forms, strict=True):
        if type(layer) is not GrowingLayer or not layer.is_initialized:
            return prepared
        form, tensors = taken_apart(call, cache)
        if form != recorded:
            return prepared
        views = grown_views(layer, prepared.length)
        inputs += [*views, *tensors]
        grown.append(_Grown(layer, *views[2:]))
    return Rehearsed(prepared.length, recording.program, tuple(inputs), tuple(grown))
