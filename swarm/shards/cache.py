"""The KV cache of a span: transformers' own cache, with in-place growth, and dummies for foreign layers.

Shapes: B rows, K key heads, S cached tokens, D head size.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, PretrainedConfig
from transformers.cache_utils import (
    CacheLayerMixin,
    DummyLayer,
    DynamicLayer,
    LinearAttentionCacheLayerMixin,
)

from swarm.core.errors import RequestError

_PAGE = 128


class GrowingLayer(DynamicLayer):  # type: ignore[no-untyped-call]
    """A `DynamicLayer` that appends into spare room instead of copying the whole past for every token."""

    keys: Tensor
    values: Tensor
    _room: tuple[Tensor, Tensor] | None = None

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Append `[B, K, n, D]` keys and values; returns views of the whole past."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        past = self.keys.shape[-2] if self.keys.numel() else 0
        end = past + key_states.shape[-2]
        room = self._room
        if room is None or room[0].shape[-2] < end or not self._fills(room):
            room = self._room = self._enlarged(key_states, value_states, past, end)
        room[0][..., past:end, :] = key_states
        room[1][..., past:end, :] = value_states
        self.keys, self.values = room[0][..., :end, :], room[1][..., :end, :]
        return self.keys, self.values

    def _fills(self, room: tuple[Tensor, Tensor]) -> bool:
        """Whether the keys are a view of the room's beginning; reordering rows replaces them by fresh tensors."""
        return not self.keys.numel() or self.keys.data_ptr() == room[0].data_ptr()

    def _enlarged(self, keys: Tensor, values: Tensor, past: int, end: int) -> tuple[Tensor, Tensor]:
        capacity = -(-max(end, past + past // 2) // _PAGE) * _PAGE
        new_keys = keys.new_empty(*keys.shape[:-2], capacity, keys.shape[-1])
        new_values = values.new_empty(*values.shape[:-2], capacity, values.shape[-1])
        if past:
            new_keys[..., :past, :] = self.keys
            new_values[..., :past, :] = self.values
        return new_keys, new_values


class ShardCache(DynamicCache):
    """Cache of the layers in `owned`; layer numbers are global, `seen` counts the tokens of the session."""

    def __init__(self, config: PretrainedConfig, owned: set[int], *, rollback: bool) -> None:
        super().__init__(config=config)
        for index, layer in enumerate(self.layers):
            if index not in owned:
                self.layers[index] = DummyLayer()  # type: ignore[no-untyped-call]
            elif type(layer) is DynamicLayer:
                self.layers[index] = GrowingLayer()  # type: ignore[no-untyped-call]
        self.seen = 0
        self.owned: list[Any] = [layer for layer in self.layers if not isinstance(layer, DummyLayer)]
        self._linear = any(isinstance(layer, LinearAttentionCacheLayerMixin) for layer in self.layers)
        if rollback:
            self.activate_past_recording()  # type: ignore[no-untyped-call]

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Tokens in the cache, also when asked of a foreign layer."""
        layer = self._attention(layer_idx)
        return self.seen if layer is None else layer.get_seq_length()

    def get_mask_sizes(self, query_length: int, layer_idx: int = 0) -> tuple[int, int]:
        """`(kv_length, kv_offset)` for the next `query_length` tokens."""
        layer = self._attention(layer_idx)
        return (self.seen + query_length, 0) if layer is None else layer.get_mask_sizes(query_length)

    def has_previous_state(self, layer_idx: int | None = None, state_idx: int | None = None) -> bool:
        """Whether tokens were seen; spans without linear layers answer for the whole model."""
        if layer_idx is None and not self._linear:
            return self.seen > 0
        return bool(super().has_previous_state(layer_idx, state_idx))

    def _attention(self, layer_idx: int | None) -> Any:
        if layer_idx is None or layer_idx >= len(self.layers):
            return None
        layer = self.layers[layer_idx]
        if not isinstance(layer, CacheLayerMixin):
            return None
        # an untouched sliding layer counts itself; any other one may belong to a layer that never attends
        return layer if layer.is_initialized or getattr(layer, "is_sliding", False) else None

    def check_rollback(self, length: int) -> None:
        """Make sure that `roll_back(length)` will work.

        Raises:
            RequestError: if some layer cannot forget its last tokens.
        """
        for layer in self.owned:
            if isinstance(layer, LinearAttentionCacheLayerMixin):
                raise RequestError(
                    "this model keeps a recurrent state and cannot roll back to an earlier position"
                )
            full = getattr(layer, "is_sliding", False) and layer.cumulative_length >= layer.sliding_window
            if full and not layer.record_past:
                raise RequestError(
                    f"cannot roll back from {self.seen} to {length} tokens: the session was opened without roll-back"
                )

    def roll_back(self, length: int) -> None:
        """Forget the tokens from position `length` on; `check_rollback` was called."""
        removed = self.seen - length
        for layer in self.owned:
            if not layer.is_initialized:
                continue
            if getattr(layer, "is_sliding", False):
                _crop_sliding(layer, removed)
            else:
                layer.crop(-removed)
        self.seen = length

    def select_rows(self, rows: Tensor) -> None:
        """Row `i` becomes what row `rows[i]` was."""
        for layer in self.owned:
            if isinstance(layer, LinearAttentionCacheLayerMixin) or layer.is_initialized:
                layer.reorder_cache(rows)

    @property
    def token_bytes(self) -> int:
        """Memory of the keys and values themselves, without spare room and recurrent states."""
        pairs = [(layer.keys, layer.values) for layer in self.owned if hasattr(layer, "keys")]
        return sum(t.numel() * t.element_size() for pair in pairs for t in pair if t is not None)

    @property
    def nbytes(self) -> int:
        """Memory of the cached tensors."""
        return sum(_layer_bytes(layer) for layer in self.owned)


def _crop_sliding(layer: Any, removed: int) -> None:
    """Remove the last tokens of a layer that records its past, and keep recording (`crop` would drop the past)."""
    layer.keys = layer.keys[..., :-removed, :]
    layer.values = layer.values[..., :-removed, :]
    layer.cumulative_length -= removed


def _layer_bytes(layer: Any) -> int:
    room = getattr(layer, "_room", None)
    tensors = list(room) if room is not None else [layer.keys, layer.values] if hasattr(layer, "keys") else []
    if isinstance(layer, LinearAttentionCacheLayerMixin):
        tensors += [*layer.conv_states.values(), *layer.recurrent_states.values()]
    return sum(t.numel() * t.element_size() for t in tensors if isinstance(t, torch.Tensor))
