"""Layers `[a, b)` of a checkpoint, run by the real transformers class they belong to."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import cached_property
from types import MappingProxyType
from typing import Any, cast

import torch
from torch import nn
from transformers import PreTrainedModel

from swarm.core.config import Quantization
from swarm.core.errors import ConfigError, ModelError, RequestError
from swarm.core.span import Span
from swarm.shards.ahead import can_look_ahead
from swarm.shards.boundary import PROBE_ROWS, PROBE_TOKENS, Boundary, read_boundary
from swarm.shards.cache import ShardCache
from swarm.shards.flat_run import attention_configs
from swarm.shards.foreign_code import CANNOT_RUN
from swarm.shards.layer_state import LayerForm, forms_of
from swarm.shards.products import use_fast_products
from swarm.shards.quantize import state_bytes
from swarm.shards.recording import Maker
from swarm.shards.recording_trial import try_compiling, try_recording, try_rows
from swarm.shards.rehearsal import Recording
from swarm.shards.self_check import Batching, choose_batching
from swarm.shards.session import ShardSession
from swarm.shards.siblings import join_siblings
from swarm.shards.source import ModelSource
from swarm.shards.span_loading import adopt_layers, load_quantized_span, load_span
from swarm.shards.span_run import SpanRun
from swarm.shards.stack import (
    inseparable_layers,
    read_layer_call,
    stack_of,
    text_config,
)
from swarm.shards.step import StepTensors
from swarm.shards.step_form import StepForm, check_tensors
from swarm.shards.stubs import ZeroEmbedding
from swarm.shards.traits import read_traits
from swarm.shards.window import LayerWindow

MOST_RECORDINGS = 8  # chains may enter and leave a span anywhere; each recording takes a fraction of a second


class Shard(nn.Module):
    """A span of a model, ready to run; all its sessions are driven by one thread.

    Attributes:
        bytes_read: what was read from the checkpoint's files.
        weight_bytes: memory of the weights.
        quantized: whether some of the weights are quantized.
        cache_forms: what the cache layers that can be handed to another peer consist of, by their number.
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
        self._model_layers = len(layers)
        setattr(stack, attribute, self.window)
        self.stack = stack
        self._like = torch.empty(0, dtype=dtype, device=device)
        for module in stack.modules():
            if isinstance(module, ZeroEmbedding):
                module.__dict__["like"] = self._like
        self._runs: dict[Span, SpanRun] = {}
        self._recordings: tuple[dict[Span, Recording], dict[Span, Recording]] = {}, {}
        tensors = [*model.parameters(), *model.buffers()]
        self.quantized = state_bytes(model) > 0
        self.weight_bytes = sum(t.numel() * t.element_size() for t in tensors) + state_bytes(model)
        self.boundary = self._find_boundary()
        self.form = StepForm(
            self.boundary.shape, self.hidden_size, self.config.vocab_size, self.traits, self.call
        )
        self.cache_forms: dict[int, LayerForm] = {}
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
        held: Mapping[int, nn.Module] = MappingProxyType({}),
    ) -> Shard:
        """Read the weights of `span`, and only those, onto `device`.

        `held` are layers of the same checkpoint, precision and device that are loaded already, by their number: those
        of `span` are taken over instead of being read. They must lie at one end of it.

        Raises:
            ConfigError: if the span is not within the model, or quantization is asked for but not installed.
            ModelError: if the checkpoint is damaged, incomplete, unsupported, or does not fit into memory.
        """
        if span.end > source.n_layers:
            raise ConfigError(
                f"layers {span} asked for, but {source.name} has only layers 0:{source.n_layers}"
            )
        if span.cuts(source.inseparable):
            raise ConfigError(
                f"layers {source.inseparable} of {source.name} share keys and values and cannot be divided: "
                f"serve all of them together, or layers below {source.inseparable and source.inseparable.start}"
            )
        kept = {index: layer for index, layer in held.items() if index in span}
        missing = _without(span, kept)
        if quantize is None:
            loaded = load_span(source, missing, dtype=dtype, device=device)
        else:
            loaded = load_quantized_span(source, missing, quantize, dtype=dtype, device=device)
        adopt_layers(loaded, kept)
        try:
            shard = cls(loaded.model, span, dtype, device)
        except CANNOT_RUN as exc:
            reason = " ".join(str(exc).split())[:200]
            raise ModelError(f"{source.name}: layers {span} cannot be run on their own ({reason})") from exc
        shard.bytes_read = loaded.bytes_read
        if use_fast_products(shard.stack):
            join_siblings(shard)
        return shard

    def release(self) -> dict[int, nn.Module]:
        """The layers by their number, for another shard to hold; this one lets go of them and cannot run any more."""
        layers = {index: self.window[index] for index in range(self.span.start, self.span.end)}
        for index in layers:
            self.window[index] = nn.Module()
        self._runs.clear()
        for recordings in self._recordings:
            recordings.clear()
        self.__dict__.pop("recorders", None)
        return layers

    def open(self, span: Span, *, rollback: bool) -> ShardSession:
        """Begin a session on a part of the shard's layers; `rollback` keeps what sliding windows would forget.

        Raises:
            RequestError: if `span` is not within the shard.
        """
        if not self.span.covers(span):
            raise RequestError(f"layers {span} asked for, but this shard holds {self.span}")
        together = inseparable_layers(self.config)
        if span.cuts(together):
            raise RequestError(f"layers {together} of this model share keys and values and cannot be divided")
        return ShardSession(self, self._run(span), self.new_cache(span, rollback=rollback), rollback=rollback)

    def new_cache(self, span: Span, *, rollback: bool) -> ShardCache:
        """An empty cache for the layers of `span`."""
        owned = set().union(*(self._indices[i] for i in range(span.start, span.end)))
        return ShardCache(self.config, owned, rollback=rollback)

    def check(self, tensors: StepTensors, span: Span) -> None:
        """Refuse tensors that do not fit layers `span` of this model.

        Raises:
            RequestError: naming the tensor and what was expected.
        """
        check_tensors(tensors, self.form, layers_ahead=self._model_layers - span.start)

    @cached_property
    def batching(self) -> Batching:
        """How steps of several sessions run; the first use tries it out on the device, in the calling thread."""
        return choose_batching(self)

    @cached_property
    def looks_ahead(self) -> bool:
        """Whether sessions may prepare their next step; the first use tries it out, in the calling thread."""
        return can_look_ahead(self)

    def recording(self, span: Span) -> Recording | None:
        """The recorded decode step of `span` for one session, made at the first use; None if there is none."""
        return self._made(self.recorders[0], self._recordings[0], span)

    def rows_recording(self, span: Span) -> Recording | None:
        """The same for tokens of several sessions at once."""
        return self._made(self.recorders[1], self._recordings[1], span)

    @cached_property
    def recorders(self) -> tuple[Maker | None, Maker | None]:
        """What makes recordings for one session, and for several; the first use tries it out, in the calling thread."""
        compiled = try_compiling(self)
        return try_recording(self, compiled), try_rows(self, compiled)

    def _made(self, maker: Maker | None, found: dict[Span, Recording], span: Span) -> Recording | None:
        if maker is None:
            return None
        if span not in found and len(found) < MOST_RECORDINGS:
            found[span] = maker(span)
        return found.get(span)

    @cached_property
    def attention_configs(self) -> list[Any]:
        """The configurations from which the layers read how they shall attend."""
        return attention_configs(self.stack)

    def _run(self, span: Span) -> SpanRun:
        if span not in self._runs:
            self._runs[span] = SpanRun(self, span)
        return self._runs[span]

    def example(self, span: Span, *, rows: int = 1, tokens: int = 1) -> StepTensors:
        """Zeros in the form that layers `span` expect: for measuring and for trying out whether they run."""
        return self._zeros(span, rows, tokens, self.boundary.shape)

    def _zeros(self, span: Span, rows: int, tokens: int, boundary: tuple[int, ...]) -> StepTensors:
        width = self.traits.per_layer_width
        ahead = self._model_layers - span.start
        embeds = torch.zeros(rows, tokens, self.hidden_size, dtype=self.dtype)
        return StepTensors(
            hidden=torch.zeros(rows, tokens, *boundary, dtype=self.dtype),
            token_ids=torch.zeros(rows, tokens, dtype=torch.long) if self.traits.needs_token_ids else None,
            embeds=embeds if self.traits.needs_embeds else None,
            per_layer=torch.zeros(rows, tokens, ahead, width, dtype=self.dtype) if width else None,
        )

    def _find_boundary(self) -> Boundary:
        zeros = self._zeros(self.span, PROBE_ROWS, PROBE_TOKENS, (self.hidden_size,))
        with torch.inference_mode():
            shape = self._run(self.span).probe(zeros, self.new_cache(self.span, rollback=False))
        return read_boundary(shape, type(self.model).__name__)

    def _measure_token(self) -> int:
        """Bytes that one token really takes, found by running one through all layers."""
        if self.call.carries and self.span.start > 0:
            return self._estimate_token()  # what earlier layers would hand over cannot be made up
        cache = self.new_cache(self.span, rollback=True)
        before = _tensors_in_modules(self.window)
        with torch.inference_mode():
            output = self._run(self.span)(self.example(self.span), cache, None)
        if kept_inside := _tensors_in_modules(self.window) - before:
            raise ModelError(
                f"{type(self.model).__name__} is not supported: it keeps the state of a sequence inside of its modules "
                f"({min(kept_inside)}), so sessions would mix"
            )
        self.cache_forms = forms_of(cache.indexed) if not self.call.carries else {}
        kept = sum(tensor.numel() * tensor.element_size() for tensor in output.named().values())
        return cache.token_bytes + kept

    def _estimate_token(self) -> int:
        """An upper estimate from the configuration: full keys and values for every attention head."""
        heads = int(self.config.num_attention_heads)
        width = max(
            int(getattr(self.config, name, 0) or 0) for name in ("head_dim", "v_head_dim", "qk_head_dim")
        )
        per_layer = 2 * heads * (width or self.hidden_size // heads)
        return (len(self.span) * per_layer + math.prod(self.boundary.shape)) * self.dtype.itemsize


def _without(span: Span, kept: Mapping[int, nn.Module]) -> Span:
    """What is left of `span` without the layers `kept` at one end of it."""
    left = [index for index in range(span.start, span.end) if index not in kept]
    assert left, "a shard that has all its layers need not be loaded"
    rest = Span(left[0], left[-1] + 1)
    assert len(rest) == len(left), f"layers {sorted(kept)} lie in the middle of {span}"
    return rest


def _tensors_in_modules(layers: nn.Module) -> set[str]:
    """Tensors that modules hold as plain attributes, neither parameters nor buffers."""
    found = set()
    for name, module in layers.named_modules():
        found |= {f"{name}.{key}" for key, value in vars(module).items() if isinstance(value, torch.Tensor)}
    return found


def _cache_indices(layer: nn.Module, index: int) -> set[int]:
    """Which entries of the cache a layer uses; a layer may hold several attentions."""
    found = {
        module.layer_idx for module in layer.modules() if isinstance(getattr(module, "layer_idx", None), int)
    }
    return cast("set[int]", found) or {index}
