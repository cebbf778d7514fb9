"""What a session needs to know about an architecture."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn
from transformers import DynamicCache, PretrainedConfig
from transformers.cache_utils import LinearAttentionCacheLayerMixin

from swarm.shards.room import forgets_cleanly
from swarm.shards.stack import LayerCall, text_config


@dataclass(frozen=True, slots=True)
class ModelTraits:
    """Facts about an architecture that shape its sessions.

    Attributes:
        chunkable: a prompt may be fed in pieces with the same result; False for recurrent models.
        croppable: a session opened for roll-back can go back to any earlier length.
        slides: some layers forget what lies outside of a window, unless the session is opened for roll-back.
        needs_token_ids: layers look at token ids.
        needs_embeds: layers look at the input embeddings.
        per_layer_width: size of the per-layer inputs, 0 for models without.
        max_positions: longest sequence the configuration was made for, None if it names none.
        position_limit: longest sequence that works at all, because positions are looked up in a table; None: no table.
    """

    chunkable: bool = True
    croppable: bool = True
    slides: bool = False
    needs_token_ids: bool = False
    needs_embeds: bool = False
    per_layer_width: int = 0
    max_positions: int | None = None
    position_limit: int | None = None


def read_traits(stack: nn.Module, config: PretrainedConfig, call: LayerCall) -> ModelTraits:
    """Derive the traits from the cache layers transformers makes for `config` and from the stack's code."""
    text = text_config(config)
    layers = DynamicCache(config=text).layers
    kinds = getattr(text, "layer_types", None) or [""] * len(layers)
    linear = [isinstance(layer, LinearAttentionCacheLayerMixin) for layer in layers]
    # a causal convolution has a state that can be cut; a recurrence has not
    recurrent = any(is_linear and kind != "conv" for is_linear, kind in zip(linear, kinds, strict=False))
    projects = hasattr(stack, "project_per_layer_inputs")
    limit = getattr(text, "max_position_embeddings", None)
    return ModelTraits(
        chunkable=not recurrent,
        croppable=not recurrent and all(forgets_cleanly(layer) for layer in layers),
        slides=any(linear) or any(getattr(layer, "is_sliding", False) for layer in layers),
        needs_token_ids=call.takes_token_ids,
        needs_embeds=call.takes_embeds,
        per_layer_width=int(getattr(text, "hidden_size_per_layer_input", 0) or 0) if projects else 0,
        max_positions=limit if isinstance(limit, int) and limit > 0 else None,
        position_limit=_table_size(stack, limit),
    )


def _table_size(stack: nn.Module, limit: object) -> int | None:
    """The number of positions, if the stack itself looks them up in an embedding."""
    if not isinstance(limit, int):
        return None
    tables = [child for child in stack.children() if isinstance(child, nn.Embedding)]
    sizes = [table.num_embeddings for table in tables if limit <= table.num_embeddings <= limit + 8]
    return limit if sizes else None
