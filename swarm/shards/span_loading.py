"""Load a span of layers: at once, or layer by layer when each is quantized on the way; or take layers over."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import torch
from torch import nn

from swarm.core.config import Quantization
from swarm.core.span import Span
from swarm.shards.loading import LoadedModel, check_memory, load_weights
from swarm.shards.quantize import quantize_layer, quantized_bytes, require_bitsandbytes
from swarm.shards.source import ModelSource
from swarm.shards.stack import stack_of
from swarm.shards.truncate import meta_model, truncated_class


def load_span(source: ModelSource, span: Span, *, dtype: torch.dtype, device: torch.device) -> LoadedModel:
    """The truncated model with the weights of `span`. Raises as `load_weights` does."""
    base, config = source.causal_class()
    return load_weights(source, truncated_class(base, config, span), config, dtype=dtype, device=device)


def load_quantized_span(
    source: ModelSource, span: Span, kind: Quantization, *, dtype: torch.dtype, device: torch.device
) -> LoadedModel:
    """The same with quantized matrices; never holds more than one layer in full precision.

    Raises:
        ConfigError: if bitsandbytes is not installed.
        ModelError: if something cannot be quantized, or as `load_weights` does.
    """
    require_bitsandbytes()
    base, config = source.causal_class()
    probe = meta_model(truncated_class(base, config, span), config)
    check_memory(quantized_bytes(probe, dtype, kind), device, source.name)
    whole: LoadedModel | None = None
    bytes_read = 0
    for index in range(span.start, span.end):
        piece = load_span(source, Span(index, index + 1), dtype=dtype, device=torch.device("cpu"))
        bytes_read += piece.bytes_read
        stack, attribute = stack_of(piece.model)
        layer = cast(nn.ModuleList, getattr(stack, attribute))[index]
        quantize_layer(piece.model, layer, kind, device)
        whole = whole or piece
        stack, attribute = stack_of(whole.model)
        cast(nn.ModuleList, getattr(stack, attribute))[index] = layer
    assert whole is not None
    nn.Module.to(whole.model, device=device)
    return LoadedModel(whole.model, bytes_read)


def adopt_layers(loaded: LoadedModel, layers: Mapping[int, nn.Module]) -> None:
    """Put layers that another model of the same checkpoint holds into `loaded`, in place of its stubs."""
    stack, attribute = stack_of(loaded.model)
    own = cast(nn.ModuleList, getattr(stack, attribute))
    for index, layer in layers.items():
        own[index] = layer
