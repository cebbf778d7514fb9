"""One call of a stack that runs layers `[a, b)` and no others.

Shapes: B rows, n new tokens, S tokens including the cached ones.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from swarm.core.errors import ModelError
from swarm.core.span import Span
from swarm.shards.ahead import Foreseen, Prepared
from swarm.shards.cache import ShardCache, SpanCache
from swarm.shards.flat_attention import FlatCache, Segment, flat_attention
from swarm.shards.step import StepTensors
from swarm.shards.window import LayerArguments, Slot, SpanDone

if TYPE_CHECKING:
    from swarm.shards.shard import Shard


class NotedRows(NamedTuple):
    """How layers would be called for single tokens in one row, and the cache that they would be given."""

    calls: tuple[LayerArguments, ...]
    cache: FlatCache


class SpanRun:
    """Runs layers `span` of a shard for one step: what a session calls."""

    def __init__(self, shard: Shard, span: Span) -> None:
        self.span = span
        self._shard = shard
        self._is_on_cpu = shard.device.type == "cpu"
        self._stack = shard.stack
        self._window = shard.window
        self._call = shard.call
        self._traits = shard.traits
        self._slot = Slot()
        self._view = shard.window.views(span, self._slot, shard.call)
        self._hidden_size = shard.hidden_size
        names = set(inspect.signature(inspect.unwrap(type(shard.stack).forward)).parameters)
        self._takes_mask = "attention_mask" in names
        self._takes_positions = "position_ids" in names
        self._cache_name = "past_key_values" if "past_key_values" in names else "cache_params"
        self._model_layers = len(shard.window)

    def __call__(self, tensors: StepTensors, cache: ShardCache, mask: Tensor | None) -> StepTensors:
        """Tensors at the boundary after the span, on the CPU. `mask` is `[B, cached + new]` or None."""
        return self.passed_on(tensors, *self.forward(tensors, cache, mask))

    def forward(
        self, tensors: StepTensors, cache: SpanCache, mask: Tensor | None
    ) -> tuple[Tensor, tuple[Tensor | None, ...]]:
        """Hidden state and carried values after the span, on the CPU."""
        boundary = self._shard.boundary
        self._slot.hidden = boundary.from_wire(self._moved(tensors.hidden))
        self._slot.carry = tuple(None if t is None else t.to(self._shard.device) for t in tensors.carry)
        if self._traits.per_layer_width:
            self._give_per_layer(tensors)
        self._window.show(self._view)
        try:
            self._stack(**self._arguments(tensors, cache, mask))
        except SpanDone as done:
            return self._taken(done.output)
        finally:
            self._window.show(None)
            self._slot.hidden, self._slot.carry = None, ()
        raise ModelError(f"{type(self._stack).__name__} did not call its layer {self.span.end - 1}")

    def note_next(self, length: int, cache: SpanCache) -> Prepared:
        """All that comes before and between the layers for one token at position `length`, of one row."""
        return Prepared(length, self.note(self._shard.example(self.span), cache))

    def note_rows(self, positions: Sequence[int], caches: Sequence[ShardCache]) -> NotedRows:
        """The same for one token at each of these positions, whose session has the cache at the same place."""
        cache = FlatCache([Segment(1, 1, own.layers, None) for own in caches], "flat")
        example = self._shard.example(self.span, tokens=len(positions))
        tensors = StepTensors(example.hidden, positions=torch.tensor([list(positions)]))
        with flat_attention(self._shard.attention_configs, cache):
            return NotedRows(self.note(tensors, cache), cache)

    def note(self, tensors: StepTensors, cache: SpanCache) -> tuple[LayerArguments, ...]:
        """What the layers would be called with, found without running them."""
        calls: list[LayerArguments] = []
        self._slot.hidden = self._moved(tensors.hidden)
        self._window.show(self._window.noting(self.span, self._slot, self._call, calls))
        try:
            self._stack(**self._arguments(tensors, cache, None))
        except SpanDone:
            return tuple(calls)
        finally:
            self._window.show(None)
            self._slot.hidden = None
        raise ModelError(f"{type(self._stack).__name__} did not call its layer {self.span.end - 1}")

    def run_foreseen(self, foreseen: Foreseen, hidden: Tensor) -> Tensor:
        """As a call with nothing but `hidden`, of the shard's dtype, for the token that was prepared for."""
        if self._is_on_cpu:
            return foreseen.run(hidden)
        return foreseen.run(self._moved(hidden)).cpu()

    def probe(self, tensors: StepTensors, cache: ShardCache) -> tuple[int, ...]:
        """The shape `[B, n, ...]` of the hidden state that the stack hands to its first layer."""
        if self._traits.per_layer_width:
            self._give_per_layer(tensors)
        self._window.show(self._window.probe(self._slot))
        try:
            self._stack(**self._arguments(tensors, cache, None))
        except SpanDone as done:
            return tuple(done.output.shape)
        finally:
            self._window.show(None)
        raise ModelError(f"{type(self._stack).__name__} did not call its first layer")

    def _moved(self, value: Tensor) -> Tensor:
        return value.to(device=self._shard.device, dtype=self._shard.dtype)

    def _arguments(self, tensors: StepTensors, cache: SpanCache, mask: Tensor | None) -> dict[str, Any]:
        arguments: dict[str, Any] = {self._cache_name: cache, "use_cache": True}
        device = self._shard.device
        if self._takes_mask and mask is not None:
            arguments["attention_mask"] = mask
        if self._takes_positions:
            arguments["position_ids"] = self._positions(tensors, cache.seen, mask)
        if self._traits.needs_token_ids:
            assert tensors.token_ids is not None
            arguments["input_ids"] = tensors.token_ids.to(device)
        elif self._traits.needs_embeds:
            assert tensors.embeds is not None
            arguments["inputs_embeds"] = self._moved(tensors.embeds)
        else:
            # never the hidden state itself: some stacks write into their embeddings
            hidden = tensors.hidden
            arguments["inputs_embeds"] = torch.zeros(
                *hidden.shape[:2], self._hidden_size, dtype=self._shard.dtype, device=device
            )
        return arguments

    def _positions(self, tensors: StepTensors, start: int, mask: Tensor | None) -> Tensor | None:
        """Given positions, or consecutive ones; beside padding the stack knows best what its default is."""
        if tensors.positions is not None:
            return tensors.positions.to(self._shard.device)
        if mask is not None:
            return None
        # not left to the stack: some count from 0 in every call
        return torch.arange(start, start + tensors.tokens, device=self._shard.device)[None]

    def _give_per_layer(self, tensors: StepTensors) -> None:
        """Let the stack find the per-layer inputs of all layers; those of earlier layers are zeros."""
        assert tensors.per_layer is not None
        ahead = self._moved(tensors.per_layer)
        rows, count = tensors.hidden.shape[:2]
        full = ahead.new_zeros(rows, count, self._model_layers, ahead.shape[-1])
        full[:, :, self.span.start :] = ahead
        stack: Any = self._stack
        stack.get_per_layer_inputs = lambda *args, **kwargs: None
        stack.project_per_layer_inputs = lambda *args, **kwargs: full

    def _taken(self, output: Any) -> tuple[Tensor, tuple[Tensor | None, ...]]:
        """What of a layer's output goes on."""
        carry: tuple[Tensor | None, ...] = ()
        hidden = output
        if self._call.returns_tuple:
            hidden = output[0]
            rest = zip(output[1:], self._call.carried, strict=False)
            carry = tuple(value.cpu() if fed and value is not None else None for value, fed in rest)
        return self._shard.boundary.to_wire(hidden).cpu(), carry

    def passed_on(
        self, tensors: StepTensors, hidden: Tensor, carry: tuple[Tensor | None, ...] = ()
    ) -> StepTensors:
        """The input `tensors` as they are at the boundary after the span."""
        if not carry and tensors.is_bare:
            return StepTensors(hidden)
        per_layer = tensors.per_layer
        if per_layer is not None:
            per_layer = per_layer[:, :, len(self.span) :] if self.span.end < self._model_layers else None
        return StepTensors(
            hidden=hidden,
            mask=tensors.mask,
            positions=tensors.positions,
            token_ids=tensors.token_ids,
            embeds=tensors.embeds,
            per_layer=per_layer,
            carry=carry if any(value is not None for value in carry) else (),
        )
