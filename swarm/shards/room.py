"""Cache layers that append into spare room instead of copying the whole past for every token.

Shapes: B rows, K key heads, n new tokens, S cached tokens, D head size.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from swarm.core.pages import room_for


class Room:
    """A buffer `[B, K, capacity, D]` of which the cached states are a view."""

    def __init__(self) -> None:
        self._buffer: Tensor | None = None

    @property
    def nbytes(self) -> int:
        """Memory of the buffer."""
        return 0 if self._buffer is None else self._buffer.numel() * self._buffer.element_size()

    def extend(self, past: Tensor, new: Tensor) -> Tensor:
        """`past` `[B, K, S, D]` (or empty) followed by `new` `[B, K, n, D]`, as a view of the buffer.

        Writes only the new states as long as `past` is a view of the buffer with room behind it; reordering rows
        makes fresh tensors, and then everything is copied once.
        """
        count = past.shape[-2] if past.numel() else 0
        buffer = self._buffer
        low = past.storage_offset() // new.shape[-1] if count else 0
        if buffer is None or not self._continues(buffer, past, count, low + count + new.shape[-2]):
            low, buffer = 0, self._allocate(past, new, count)
        high = low + count
        buffer[..., high : high + new.shape[-2], :] = new
        return buffer[..., low : high + new.shape[-2], :]

    def reserve(self, past: Tensor) -> Tensor:
        """The buffer that holds `past` from its beginning on and one more position; `past` may have to move there."""
        count = past.shape[-2]
        buffer = self._buffer
        if buffer is None or past.storage_offset() or not self._continues(buffer, past, count, count + 1):
            buffer = self._allocate(past, past[..., :1, :], count)
        return buffer

    def _continues(self, buffer: Tensor, past: Tensor, count: int, end: int) -> bool:
        if not count or end > buffer.shape[-2]:
            return False
        return past.untyped_storage().data_ptr() == buffer.untyped_storage().data_ptr()

    def _allocate(self, past: Tensor, new: Tensor, count: int) -> Tensor:
        needed = count + new.shape[-2]
        capacity = room_for(new.shape[0], needed, count)
        buffer = new.new_empty(*new.shape[:-2], capacity, new.shape[-1])
        if count:
            buffer[..., :count, :] = past
        self._buffer = buffer
        return buffer


class GrowingLayer(DynamicLayer):  # type: ignore[no-untyped-call]
    """A `DynamicLayer` with room."""

    keys: Tensor
    values: Tensor

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.rooms = Room(), Room()

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Append `[B, K, n, D]` keys and values; returns views of the whole past."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        self.keys = self.rooms[0].extend(self.keys, key_states)
        self.values = self.rooms[1].extend(self.values, value_states)
        return self.keys, self.values

    def reserve(self) -> tuple[Tensor, Tensor]:
        """Buffers `[B, K, capacity, D]` of keys and values with room for one more token behind the cached ones."""
        keys, values = self.rooms[0].reserve(self.keys), self.rooms[1].reserve(self.values)
        count = self.keys.shape[-2]
        self.keys, self.values = keys[..., :count, :], values[..., :count, :]
        return keys, values


class GrowingSlidingLayer(DynamicSlidingWindowLayer):  # type: ignore[no-untyped-call]
    """A `DynamicSlidingWindowLayer` with room. While it records its past, nothing is forgotten."""

    keys: Tensor
    values: Tensor

    def __init__(self, sliding_window: int) -> None:
        super().__init__(sliding_window)
        self.rooms = Room(), Room()

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Append `[B, K, n, D]` keys and values; returns views of what the window of the new tokens reaches."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        new = key_states.shape[-2]
        self.cumulative_length += new
        keys = self.rooms[0].extend(self.keys, key_states)
        values = self.rooms[1].extend(self.values, value_states)
        kept = keys.shape[-2] if self.record_past else min(keys.shape[-2], self.sliding_window - 1)
        visible = min(keys.shape[-2], self.sliding_window - 1 + new)
        self.keys, self.values = _last(keys, kept), _last(values, kept)
        return _last(keys, visible), _last(values, visible)

    def roll_back(self, removed: int) -> None:
        """Forget the last tokens and go on recording (`crop` would shrink the past to one window)."""
        self.keys, self.values = self.keys[..., :-removed, :], self.values[..., :-removed, :]
        self.cumulative_length -= removed


def _last(states: Tensor, count: int) -> Tensor:
    return states[..., states.shape[-2] - count :, :]


def forgets_cleanly(layer: Any) -> bool:
    """Whether `crop` undoes all that `update` does: a class that extends the one must extend the other."""
    for cls in type(layer).__mro__:
        if "crop" in vars(cls) or cls in (GrowingLayer, GrowingSlidingLayer):
            return True
        if "update" in vars(cls):
            return False
    return False


def with_room(layer: Any) -> Any:
    """The same kind of empty cache layer with room, where there is one; else the layer itself."""
    if type(layer) is DynamicLayer:
        return GrowingLayer()
    if type(layer) is DynamicSlidingWindowLayer:
        return GrowingSlidingLayer(layer.sliding_window)
    return layer


def held_bytes(layer: Any) -> int:
    """Memory that a cache layer holds, spare room included."""
    rooms = getattr(layer, "rooms", None)
    if rooms is not None:
        return sum(room.nbytes for room in rooms)
    found: list[Any] = [getattr(layer, "keys", None), getattr(layer, "values", None)]
    for states in ("conv_states", "recurrent_states"):
        found += getattr(layer, states, {}).values()
    return sum(t.numel() * t.element_size() for t in found if isinstance(t, torch.Tensor))
