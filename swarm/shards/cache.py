"""The KV cache of a span: transformers' own cache, with in-place growth, and dummies for foreign layers."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from transformers import DynamicCache, PretrainedConfig
from transformers.cache_utils import (
    CacheLayerMixin,
    DummyLayer,
    LinearAttentionCacheLayerMixin,
)

from swarm.core.errors import RequestError
from swarm.core.span import Span
from swarm.shards.room import GrowingLayer, GrowingSlidingLayer, forgets_cleanly, held_bytes, with_room


class SpanCache(DynamicCache):
    """What a span runs with; `seen` counts the tokens of the session."""

    seen = 0


class ShardCache(SpanCache):
    """Cache of the layers in `owned`; layer numbers are global, `seen` counts the tokens of the session."""

    def __init__(self, config: PretrainedConfig, owned: set[int], *, rollback: bool) -> None:
        super().__init__(config=config)
        for index, layer in enumerate(self.layers):
            if index not in owned:
                self.layers[index] = DummyLayer()  # type: ignore[no-untyped-call]
            else:
                self.layers[index] = with_room(layer)
        self.seen = 0
        self.indexed: dict[int, Any] = {
            index: layer for index, layer in enumerate(self.layers) if not isinstance(layer, DummyLayer)
        }
        self.owned: list[Any] = list(self.indexed.values())
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

    def of(self, span: Span) -> list[Any]:
        """The cache layers of the model's layers `span`, where each of these has one."""
        return [self.indexed[index] for index in range(span.start, span.end)]

    def check_rollback(self, length: int) -> None:
        """Make sure that `roll_back(length)` will work.

        Raises:
            RequestError: if some layer cannot forget its last tokens.
        """
        for layer in self.owned:
            if isinstance(layer, LinearAttentionCacheLayerMixin):
                _check_linear(layer, self.seen - length)
            if not forgets_cleanly(layer):
                raise RequestError(
                    f"this model's {type(layer).__name__} cannot roll back to an earlier position"
                )
            full = getattr(layer, "is_sliding", False) and layer.cumulative_length >= layer.sliding_window
            if full and not layer.record_past:
                raise RequestError(
                    f"cannot roll back from {self.seen} to {length} tokens: the session was opened without roll-back"
                )

    def forget_past(self) -> None:
        """Shrink recorded convolution states to what the next step needs, as `generate` does after every step."""
        if self._linear:
            for layer in self.owned:
                if isinstance(layer, LinearAttentionCacheLayerMixin) and layer.record_past:
                    _shrink(layer)

    def roll_back(self, length: int) -> None:
        """Forget the tokens from position `length` on; `check_rollback` was called."""
        removed = self.seen - length
        for layer in self.owned:
            if isinstance(layer, GrowingSlidingLayer):
                layer.roll_back(removed)
            elif isinstance(layer, LinearAttentionCacheLayerMixin) or layer.is_initialized:
                layer.crop(-removed)
        self.seen = length

    @property
    def is_copyable(self) -> bool:
        """Whether `copy_from` knows every layer's state; layers that never attended have none."""
        return all(type(layer) is GrowingLayer or not layer.is_initialized for layer in self.owned)

    def copy_from(self, other: ShardCache, length: int) -> None:
        """An empty cache takes a copy of the first `length` tokens of another one of the same layers."""
        assert self.seen == 0
        for mine, theirs in zip(self.owned, other.owned, strict=True):
            if theirs.is_initialized:
                mine.update(theirs.keys[..., :length, :], theirs.values[..., :length, :])
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
        return sum(held_bytes(layer) for layer in self.owned)


def _check_linear(layer: Any, removed: int) -> None:
    if not layer.is_croppable:
        raise RequestError("this model keeps a recurrent state and cannot roll back to an earlier position")
    states = [
        (state, layer.conv_kernel_size[i]) for i, state in layer.conv_states.items() if state is not None
    ]
    if not layer.record_past or any(state.shape[-1] < removed for state, _ in states):
        raise RequestError(
            f"cannot roll back {removed} tokens: this model's convolutions remember the last step only"
        )


def _shrink(layer: Any) -> None:
    for index, state in layer.conv_states.items():
        if state is not None and layer.is_conv_states_initialized[index]:
            layer.conv_states[index] = state[..., -layer.conv_kernel_size[index] :]
