"""Attention over several sessions at once: each looks at its own cache only.

All new tokens of a batch stand in one row, `[1, T, hidden]`. What a layer does to single tokens happens once for all
of them; where tokens look at others, `attend` takes the row apart again.

Shapes: T tokens of the batch, B rows and n tokens per row of one session, H query heads, K key heads, S visible keys.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

from swarm.shards.cache import SpanCache
from swarm.shards.few_queries import by_few_queries, can_attend
from swarm.shards.many_queries import by_many_queries, can_attend_many

Way = Literal["flat", "joined"]
_FEW = 8  # tokens; from there on every query head reads the keys by itself as quickly
FLAT = "swarm_flat"  # no mask function has this name: transformers makes no masks then


@dataclass(frozen=True, slots=True)
class Segment:
    """The part of a batch that belongs to one session; `mask` is `[B, cached + new]` or None."""

    rows: int
    tokens: int
    layers: Sequence[Any] | Mapping[int, Any]
    mask: Tensor | None
    visible: dict[tuple[int, int | None], Tensor | None] = field(default_factory=dict)

    @property
    def size(self) -> int:
        return self.rows * self.tokens

    def per_row(self, states: Tensor) -> Tensor:
        """`[1, heads, B n, D]` as `[B, heads, n, D]`, for any n."""
        if self.rows == 1:
            return states
        heads, count, width = states.shape[1:]
        return states.reshape(heads, self.rows, count // self.rows, width).transpose(0, 1)

    def visibility(self, keys: int, window: int | None, device: torch.device) -> Tensor | None:
        """Which of the last `keys` keys each new token sees, `[n, S]` or `[B, 1, n, S]`; None if all of them."""
        found = self.visible.get((keys, window), self)
        if found is self:
            found = self.visible[keys, window] = self._see(keys, window, device)
        assert found is None or isinstance(found, Tensor)
        return found

    def _see(self, keys: int, window: int | None, device: torch.device) -> Tensor | None:
        if self.tokens == 1 and self.mask is None:
            return None
        own = torch.arange(keys - self.tokens, keys, device=device)[:, None]
        past = torch.arange(keys, device=device)
        seen = past <= own
        if window is not None:
            seen &= past > own - window
        if self.mask is None:
            return seen
        unpadded = self.mask[:, None, None, -keys:].bool()
        return (seen & unpadded) | (past == own)  # padding sees itself, or its output would not be a number


class FlatCache(SpanCache):
    """Hands the keys and values of each segment to its session's own cache.

    Most layers attend to what the cache gives them; `flat` takes a short cut there and copies no past. Some make their
    keys and values from what the cache gives them (latent attention): `joined` gives them all pasts, side by side.
    """

    def __init__(self, segments: Sequence[Segment], way: Way) -> None:
        super().__init__()
        self.segments = segments
        self.sizes = [segment.size for segment in segments]
        self.window: int | None = None  # of the layer that was updated last
        self._way = way
        self._states: list[tuple[Tensor, Tensor]] | None = None

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Keep what every session sees for `take`; returns the new states or all pasts, side by side."""
        keys, values = self.split(key_states), self.split(value_states)
        self._states = [
            segment.layers[layer_idx].update(segment.per_row(k), segment.per_row(v), *args, **kwargs)
            for segment, k, v in zip(self.segments, keys, values, strict=True)
        ]
        self.window = getattr(self.segments[0].layers[layer_idx], "sliding_window", None)
        if self._way == "joined":
            return _side_by_side([k for k, _ in self._states]), _side_by_side([v for _, v in self._states])
        return key_states, value_states

    def split(self, states: Tensor) -> Sequence[Tensor]:
        """The part `[1, heads, B n, D]` of each segment in the states of the batch."""
        return [states] if len(self.sizes) == 1 else torch.split(states, self.sizes, dim=2)

    def take(self, key: Tensor, value: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Keys and values `[B, K, S, D]` of each segment; the layer attends to `key` and `value`."""
        states, self._states = self._states, None
        if states is None:
            raise RuntimeError("a layer attends without adding keys and values")
        if self._way == "flat":
            return states
        sizes = [k.shape[0] * k.shape[2] for k, _ in states]
        parts = zip(self.segments, torch.split(key, sizes, 2), torch.split(value, sizes, 2), strict=True)
        return [(segment.per_row(k), segment.per_row(v)) for segment, k, v in parts]

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Nothing that is shared by the sessions."""
        return 0


def _side_by_side(states: Sequence[Tensor]) -> Tensor:
    """`[B, K, S, D]` of several segments as one `[1, K, all B S, D]`."""
    rows = [s if s.shape[0] == 1 else s.transpose(0, 1).flatten(1, 2)[None] for s in states]
    return torch.cat(rows, dim=2)


@dataclass(frozen=True, slots=True)
class Weighing:
    """How a layer weighs what it sees."""

    scale: float
    window: int | None
    softcap: float | None
    sinks: Tensor | None


_CACHE: ContextVar[FlatCache] = ContextVar("flat_cache")


@contextmanager
def flat_attention(configs: Sequence[Any], cache: FlatCache) -> Iterator[None]:
    """Let the models of `configs` attend flat, over the segments of `cache`."""
    before = [config._attn_implementation for config in configs]
    token = _CACHE.set(cache)
    try:
        for config in configs:
            config._attn_implementation = FLAT
        yield
    finally:
        for config, name in zip(configs, before, strict=True):
            config._attn_implementation = name
        _CACHE.reset(token)


def attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """The attention function that transformers calls: `query` `[1, H, T, D]` gives `[1, T, H, D]`."""
    cache = _CACHE.get()
    if kwargs.get("position_bias") is not None or attention_mask is not None:
        raise RuntimeError("a layer brings a bias or a mask of its own")
    window = kwargs.get("sliding_window")
    weighing = Weighing(
        query.shape[-1] ** -0.5 if scaling is None else scaling,
        cache.window if window is None else window,
        kwargs.get("softcap"),
        kwargs.get("s_aux"),
    )
    parts = zip(cache.segments, cache.split(query), cache.take(key, value), strict=True)
    outputs = [_attend(segment, piece, keys, values, weighing) for segment, piece, (keys, values) in parts]
    return outputs[0] if len(outputs) == 1 else torch.cat(outputs, dim=1), None


def _attend(segment: Segment, query: Tensor, key: Tensor, value: Tensor, weighing: Weighing) -> Tensor:
    """`[1, B n, H, D]` for one session."""
    rows, tokens, heads = segment.rows, segment.tokens, query.shape[1]
    window = weighing.window
    if window is not None:
        reach = window + tokens - 1
        key, value = key[:, :, -reach:], value[:, :, -reach:]
    keys = key.shape[2]
    if window is not None and window >= keys:
        window = None
    query = segment.per_row(query)
    if weighing.softcap is not None or weighing.sinks is not None:
        seen = segment.visibility(keys, window, query.device)
        output = _weigh(query, key, value, seen, weighing)
    elif tokens <= _FEW:
        seen = segment.visibility(keys, window, query.device)
        single = tokens == 1 and seen is None and can_attend(query, key, value)
        output = (
            by_few_queries(query, key, value, weighing.scale)
            if single
            else _few(query, key, value, seen, weighing.scale)
        )
    elif segment.mask is None and can_attend_many(query, key, value):
        output = by_many_queries(query, key, value, weighing.scale, window)
    else:
        causal = keys == tokens and window is None and segment.mask is None
        seen = None if causal else segment.visibility(keys, window, query.device)
        output = _many(query, key, value, seen, weighing.scale)
    return output.transpose(1, 2).reshape(1, rows * tokens, heads, -1)


def _few(query: Tensor, key: Tensor, value: Tensor, seen: Tensor | None, scale: float) -> Tensor:
    """`[B, H, n, D]`, for few new tokens; `seen` None means that all is seen.

    The query heads of one key head stand as tokens, so that its keys are read once, and never repeated.
    """
    rows, heads, tokens, width = query.shape
    groups = heads // key.shape[1]
    packed = query.reshape(rows, key.shape[1], groups * tokens, width)
    if seen is not None and tokens > 1:
        seen = seen.repeat(*[1] * (seen.dim() - 2), groups, 1)
    output = scaled_dot_product_attention(packed, key, value, attn_mask=seen, scale=scale)
    return output.reshape(rows, heads, tokens, -1)


def _many(query: Tensor, key: Tensor, value: Tensor, seen: Tensor | None, scale: float) -> Tensor:
    """`[B, H, n, D]`, for several new tokens; `seen` None means causal and nothing cached."""
    groups = query.shape[1] // key.shape[1]
    if groups > 1 and query.device.type != "cpu" and seen is not None:
        # other devices have no fast kernel for a mask and shared key heads together
        key, value, groups = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1), 1
    return scaled_dot_product_attention(
        query, key, value, attn_mask=seen, is_causal=seen is None, scale=scale, enable_gqa=groups > 1
    )


def _weigh(query: Tensor, key: Tensor, value: Tensor, seen: Tensor | None, weighing: Weighing) -> Tensor:
    """`[B, H, n, D]` with capped weights or attention sinks, which no fused kernel knows."""
    rows, heads, tokens, _ = query.shape
    key_heads, keys = key.shape[1], key.shape[2]
    packed = query.reshape(rows, key_heads, -1, query.shape[-1])
    weights = (packed @ key.transpose(2, 3) * weighing.scale).view(rows, heads, tokens, keys)
    if weighing.softcap is not None:
        weights = torch.tanh(weights / weighing.softcap) * weighing.softcap
    if seen is not None:
        weights = weights.masked_fill(~seen, -torch.inf)
    if weighing.sinks is not None:
        sinks = weighing.sinks.view(1, -1, 1, 1).expand(rows, -1, tokens, 1)
        weights = torch.cat([weights, sinks.to(weights.dtype)], dim=-1)
    shares = torch.softmax(weights, dim=-1, dtype=torch.float32)[..., :keys].to(value.dtype)
    return (shares.reshape(rows, key_heads, -1, keys) @ value).view(rows, heads, tokens, -1)


AttentionInterface.register(FLAT, attend)
