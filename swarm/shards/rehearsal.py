"""Recorded decode steps, ready to be run: programs of layers with all their inputs but the hidden state."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import torch
from torch import Tensor
from torch.utils._pytree import TreeSpec, tree_flatten, tree_unflatten

from swarm.shards.ahead import Foreseen, TokenMemory
from swarm.shards.room import GrowingLayer
from swarm.shards.window import LayerArguments

if TYPE_CHECKING:
    from swarm.shards.cache import SpanCache
    from swarm.shards.session import ShardSession
    from swarm.shards.span_run import NotedRows

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


class Ready(Protocol):
    """A run that lacks nothing but the hidden state; it may be called once, and once more after each `advance`."""

    def __call__(self, hidden: Tensor) -> Tensor: ...

    def bound(self, memory: TokenMemory) -> Callable[[], object] | None:
        """The same in this memory, without a call of torch, where that is possible."""
        ...

    def advance(self) -> bool:
        """Be ready for the token after the one that ran; False if its inputs are not there."""
        ...


class Program(Protocol):
    """What some layers compute for the next token of one row.

    `reach` is for how many tokens in a row it can be made ready at once.
    """

    @property
    def reach(self) -> int: ...

    def ready(self, lengths: Sequence[int], inputs: Sequence[LayerInputs]) -> Ready | None:
        """All but the hidden state `[1, 1, ...]` of the token at position `lengths[0]`; None if the inputs do not fit.

        The tensors of `inputs` may hold what tokens after this one need as well, up to `reach`.
        """
        ...


@dataclass(frozen=True, slots=True)
class TracedProgram:
    """A program of torch: `function(hidden, at, *inputs)`, layer by layer `GrownViews` and the tensors of its call."""

    function: Any

    @property
    def reach(self) -> int:
        """See `Program`."""
        return 1

    def ready(self, lengths: Sequence[int], inputs: Sequence[LayerInputs]) -> Ready | None:
        """See `Program`."""
        given = [torch.tensor(lengths)]
        for layer in inputs:
            given += [*layer.caches[0], *layer.tensors]
        return _TracedRun(self.function, given)


@dataclass(frozen=True, slots=True)
class _TracedRun:
    function: Any
    given: list[Tensor]

    def __call__(self, hidden: Tensor) -> Tensor:
        found: Tensor = self.function(hidden, *self.given)
        return found

    def bound(self, memory: TokenMemory) -> None:
        return None

    def advance(self) -> bool:
        return False


@dataclass(frozen=True, slots=True)
class Recording:
    """A span's program, and the form of each layer's call."""

    forms: tuple[CallForm, ...]
    program: Program


@dataclass(frozen=True, slots=True)
class Grown:
    """A cache layer with its buffers, and what it holds once the token is there."""

    layer: GrowingLayer
    views: GrownViews

    def further(self) -> Grown | None:
        """The same with one more token; None if the buffers are full."""
        keys, values, held, _ = self.views
        length = held.shape[-2] + 1
        if length > keys.shape[-2]:
            return None
        return Grown(self.layer, (keys, values, keys[..., :length, :], values[..., :length, :]))


def settle(grown: Sequence[Grown]) -> None:
    """The token is there."""
    for entry in grown:
        _, _, entry.layer.keys, entry.layer.values = entry.views


@dataclass(frozen=True, slots=True)
class Rehearsed(Foreseen):
    """A recording with all its inputs but the hidden state, ready for one token at position `length`."""

    call: Ready
    grown: Sequence[Grown]

    def run(self, hidden: Tensor) -> Tensor:
        """The hidden state after the span."""
        found = self.call(hidden)
        settle(self.grown)
        return found

    def bound(self, memory: TokenMemory) -> Callable[[], None] | None:
        """See `Foreseen`."""
        call, grown = self.call.bound(memory), self.grown
        if call is None:
            return None

        def run() -> None:
            call()
            settle(grown)

        return run

    def after(self) -> Foreseen | None:
        """See `Foreseen`; nothing but this may have changed the session since it was prepared."""
        further = [grown.further() for grown in self.grown]
        grown = [layer for layer in further if layer is not None]
        if len(grown) < len(further) or not self.call.advance():
            return None
        return Rehearsed(self.length + 1, self.call, grown)


def rehearse(session: ShardSession, recording: Recording) -> Foreseen | None:
    """The recording for the next token of a session of one row, and for others after it; None if it does not fit."""
    length, span, limit = session.length, session.span, session.shard.traits.position_limit
    most = recording.program.reach
    reach = most if limit is None else min(most, limit - length)
    noted = session.run.note_rows(range(length, length + reach), [session.cache] * reach)
    made = make_ready(recording, noted, [session.cache.of(span)], [length])
    return None if made is None else Rehearsed(length, *made)


def make_ready(
    recording: Recording, noted: NotedRows, caches: Sequence[Sequence[Any]], lengths: Sequence[int]
) -> tuple[Ready, list[Grown]] | None:
    """A run of the recording for one token of each session, and what their caches hold then; None if it does not fit.

    `caches` are the cache layers of the span of each session, which hold `lengths` tokens.
    """
    inputs: list[LayerInputs] = []
    grown: list[Grown] = []
    for layers, call, recorded in zip(zip(*caches, strict=True), noted.calls, recording.forms, strict=True):
        form, tensors = taken_apart(call, noted.cache)
        if form != recorded or not all(map(can_grow, layers)):
            return None
        views = [grown_views(layer, length) for layer, length in zip(layers, lengths, strict=True)]
        inputs.append(LayerInputs(views, tensors))
        grown += map(Grown, layers, views)
    ready = recording.program.ready(lengths, inputs)
    return None if ready is None else (ready, grown)


def can_grow(layer: Any) -> bool:
    """Whether a program can write into this cache layer."""
    return type(layer) is GrowingLayer and bool(layer.is_initialized)
