"""Layers `[a, b)` of a checkpoint, run by the real transformers class they belong to."""

from __future__ import annotations

import inspect
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from swarm.core.config import Quantization
from swarm.core.errors import ConfigError, ModelError, RequestError
from swarm.core.span import Span
from swarm.shards.cache import ShardCache
from swarm.shards.loading import load_weights
from swarm.shards.session import ShardSession
from swarm.shards.source import ModelSource
from swarm.shards.stack import layer_count, read_layer_call, stack_of, text_config
from swarm.shards.step import StepTensors
from swarm.shards.stubs import ZeroEmbedding
from swarm.shards.traits import read_traits
from swarm.shards.truncate import truncated_class
from swarm.shards.window import LayerWindow, Slot, SpanDone


class Shard(nn.Module):
    """A span of a model, ready to run; all its sessions are driven by one thread.

    Attributes:
        bytes_read: what was read from the checkpoint's files.
        weight_bytes: memory of the weights.
        cache_bytes_per_token: memory that one token of one row takes: keys and values of the span plus the kept output.
    """

    def __init__(self, model: PreTrainedModel, span: Span, dtype: torch.dtype, device: torch.device) -> None:
        super().__init__()
        self.model = model
        self.span = span
        self.dtype = dtype
        self.device = device
        self.config = text_config(model.config)
        self.hidden_size: int = self.config.hidden_size
        self.bytes_read = 0
        stack, attribute = stack_of(model)
        self.call = read_layer_call(stack, attribute)
        self.traits = read_traits(stack, model.config, self.call)
        layers = cast(nn.ModuleList, getattr(stack, attribute))
        self._indices = {i: _cache_indices(layers[i], i) for i in range(span.start, span.end)}
        self.window = LayerWindow(layers)
        setattr(stack, attribute, self.window)
        self.stack = stack
        self._like = torch.empty(0, dtype=dtype, device=device)
        for module in stack.modules():
            if isinstance(module, ZeroEmbedding):
                module.__dict__["like"] = self._like
        self._runs: dict[Span, SpanRun] = {}
        tensors = [*model.parameters(), *model.buffers()]
        self.weight_bytes = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
        self.cache_bytes_per_token = self._measure_token()

    @classmethod
    def load(
        cls,
        source: ModelSource,
        span: Span,
        *,
        dtype: torch.dtype,
        device: torch.device,
        quantize: Quantization | None = None,
    ) -> Shard:
        """Read the weights of `span`, and only those, onto `device`.

        Raises:
            ConfigError: if the span is not within the model, or quantization is asked for but not installed.
            ModelError: if the checkpoint is damaged, incomplete, unsupported, or does not fit into memory.
        """
        if span.end > source.n_layers:
            raise ConfigError(
                f"layers {span} asked for, but {source.name} has only layers 0:{source.n_layers}"
            )
        base, config = source.causal_class()
        loaded = load_weights(
            source, truncated_class(base, config, span), config, dtype=dtype, device=device, quantize=quantize
        )
        shard = cls(loaded.model, span, dtype, device)
        shard.bytes_read = loaded.bytes_read
        return shard

    def open(self, span: Span, *, rollback: bool) -> ShardSession:
        """Begin a session on a part of the shard's layers; `rollback` keeps what sliding windows would forget.

        Raises:
            RequestError: if `span` is not within the shard.
        """
        if not self.span.covers(span):
            raise RequestError(f"layers {span} asked for, but this shard holds {self.span}")
        return ShardSession(self, self._run(span), self.new_cache(span, rollback=rollback), rollback=rollback)

    def new_cache(self, span: Span, *, rollback: bool) -> ShardCache:
        """An empty cache for the layers of `span`."""
        owned = set().union(*(self._indices[i] for i in range(span.start, span.end)))
        return ShardCache(self.config, owned, rollback=rollback)

    def check(self, tensors: StepTensors, span: Span) -> None:
        """Refuse tensors that do not fit this model.

        Raises:
            RequestError: naming the tensor and what was expected.
        """
        hidden = tensors.hidden
        if hidden.dim() != 3 or hidden.shape[2] != self.hidden_size or not hidden.is_floating_point():
            raise RequestError(
                f"hidden state {list(hidden.shape)} does not fit hidden size {self.hidden_size}"
            )
        batch = hidden.shape[:2]
        for name, value in tensors.named().items():
            if value.shape[:2] != batch:
                raise RequestError(
                    f"{name} has shape {list(value.shape)}, the hidden state {list(hidden.shape)}"
                )
        if self.traits.needs_token_ids and tensors.token_ids is None:
            raise RequestError("this model's layers need the token ids beside the hidden state")
        if self.traits.needs_embeds and tensors.embeds is None:
            raise RequestError("this model's layers need the input embeddings beside the hidden state")
        if self.traits.per_layer_width:
            ahead = layer_count(self.config) - span.start
            expected = (*batch, ahead, self.traits.per_layer_width)
            if tensors.per_layer is None or tensors.per_layer.shape != expected:
                raise RequestError(
                    f"per-layer inputs of shape {list(expected)} are needed beside the hidden state"
                )

    def _run(self, span: Span) -> SpanRun:
        if span not in self._runs:
            self._runs[span] = SpanRun(self, span)
        return self._runs[span]

    def example(self, span: Span, *, rows: int = 1, tokens: int = 1) -> StepTensors:
        """Zeros in the form that layers `span` expect: for measuring and for trying out whether they run."""
        width = self.traits.per_layer_width
        ahead = layer_count(self.config) - span.start
        zeros = torch.zeros(rows, tokens, self.hidden_size, dtype=self.dtype)
        return StepTensors(
            hidden=zeros,
            token_ids=torch.zeros(rows, tokens, dtype=torch.long) if self.traits.needs_token_ids else None,
            embeds=zeros.clone() if self.traits.needs_embeds else None,
            per_layer=torch.zeros(rows, tokens, ahead, width, dtype=self.dtype) if width else None,
        )

    def _measure_token(self) -> int:
        """Bytes that one token really takes, found by running one through all layers."""
        cache = self.new_cache(self.span, rollback=True)
        with torch.inference_mode():
            output = self._run(self.span)(self.example(self.span), cache, None)
        kept = sum(tensor.numel() * tensor.element_size() for tensor in output.named().values())
        return cache.token_bytes + kept


class SpanRun:
    """Runs layers `span` of a shard for one step: what a session calls."""

    def __init__(self, shard: Shard, span: Span) -> None:
        self.span = span
        self._shard = shard
        self._stack = shard.stack
        self._window = shard.window
        self._call = shard.call
        self._traits = shard.traits
        self._slot = Slot()
        self._view = shard.window.views(span, self._slot, shard.call)
        names = set(inspect.signature(inspect.unwrap(type(shard.stack).forward)).parameters)
        self._takes_mask = "attention_mask" in names
        self._takes_positions = "position_ids" in names
        self._cache_name = "past_key_values" if "past_key_values" in names else "cache_params"
        self._model_layers = layer_count(shard.config)

    def __call__(self, tensors: StepTensors, cache: ShardCache, mask: Tensor | None) -> StepTensors:
        """Tensors at the boundary after the span, on the CPU. `mask` is `[B, cached + new]` or None."""
        self._slot.hidden = self._moved(tensors.hidden)
        self._slot.carry = tuple(None if t is None else t.to(self._shard.device) for t in tensors.carry)
        if self._traits.per_layer_width:
            self._give_per_layer(tensors)
        self._window.show(self._view)
        try:
            self._stack(**self._arguments(tensors, cache, mask))
        except SpanDone as done:
            return self._passed_on(tensors, done.output)
        finally:
            self._window.show(None)
            self._slot.hidden, self._slot.carry = None, ()
        raise ModelError(f"{type(self._stack).__name__} did not call its layer {self.span.end - 1}")

    def _moved(self, value: Tensor) -> Tensor:
        return value.to(device=self._shard.device, dtype=self._shard.dtype)

    def _arguments(self, tensors: StepTensors, cache: ShardCache, mask: Tensor | None) -> dict[str, Any]:
        arguments: dict[str, Any] = {self._cache_name: cache, "use_cache": True}
        device = self._shard.device
        if self._takes_mask and mask is not None:
            arguments["attention_mask"] = mask
        if self._takes_positions and tensors.positions is not None:
            arguments["position_ids"] = tensors.positions.to(device)
        if self._traits.needs_token_ids:
            assert tensors.token_ids is not None
            arguments["input_ids"] = tensors.token_ids.to(device)
        elif self._traits.needs_embeds:
            assert tensors.embeds is not None
            arguments["inputs_embeds"] = self._moved(tensors.embeds)
        else:
            # never the hidden state itself: some stacks write into their embeddings
            assert self._slot.hidden is not None
            arguments["inputs_embeds"] = torch.zeros_like(self._slot.hidden)
        return arguments

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

    def _passed_on(self, tensors: StepTensors, output: Any) -> StepTensors:
        carry: tuple[Tensor | None, ...] = ()
        hidden = output
        if self._call.returns_tuple:
            hidden = output[0]
            rest = zip(output[1:], self._call.carried, strict=False)
            carry = tuple(value.cpu() if fed and value is not None else None for value, fed in rest)
        per_layer = tensors.per_layer
        if per_layer is not None:
            per_layer = per_layer[:, :, len(self.span) :] if self.span.end < self._model_layers else None
        return StepTensors(
            hidden=hidden.cpu(),
            mask=tensors.mask,
            positions=tensors.positions,
            token_ids=tensors.token_ids,
            embeds=tensors.embeds,
            per_layer=per_layer,
            carry=carry if any(value is not None for value in carry) else (),
        )


def _cache_indices(layer: nn.Module, index: int) -> set[int]:
    """Which entries of the cache a layer uses; a layer may hold several attentions."""
    found = {
        module.layer_idx for module in layer.modules() if isinstance(getattr(module, "layer_idx", None), int)
    }
    return cast("set[int]", found) or {index}
