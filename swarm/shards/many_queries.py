"""Attention of the tokens of a prompt, compiled for this processor where there is a C compiler.

torch's kernel weighs each token against all keys, also those after it, unless nothing at all is cached, and is at half
of the speed of a product. `attend_many_queries.c` needs 0.5 to 0.8 of its time (docs/adr/0015).
"""

from __future__ import annotations

import ctypes
import logging
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from swarm.shards.compiled import compiled

logger = logging.getLogger(__name__)
FEWEST = 64  # tokens; fewer are done as soon by torch
LANES = 16
WIDEST = 256
_GROUP = 32  # queries
_MOST_KEYS = 2**30
_TOLERANCE = 1e-4


def can_attend_many(query: Tensor, key: Tensor, value: Tensor) -> bool:
    """Whether `by_many_queries` takes these, and is likely to be faster than torch's kernel: that uses all threads."""
    if query.shape[0] > 1 or query.shape[2] < FEWEST or key.shape[2] > _MOST_KEYS:
        return False
    for states in (query, key, value):
        if states.dtype != torch.float32 or states.device.type != "cpu" or states.stride(-1) != 1:
            return False
    is_narrow = key.shape[-1] <= WIDEST and value.shape[-1] <= WIDEST and not value.shape[-1] % LANES
    return is_narrow and has_many_queries()


def has_many_queries() -> bool:
    """Whether `by_many_queries` works in this thread; the first call compiles it."""
    return torch.get_num_threads() == 1 and not torch._C._get_tracing_state() and _function() is not None


def by_many_queries(query: Tensor, key: Tensor, value: Tensor, scale: float, window: int | None) -> Tensor:
    """`[1, H, n, D]` for queries `[1, H, n, D]` of the last n of the tokens of keys and values `[1, K, S, D]`.

    Each sees the keys up to its own, but no more than the last `window` of them; see `can_attend_many`.
    """
    return _attend(_function(), query, key, value, scale, window)


def _attend(
    function: Any, query: Tensor, key: Tensor, value: Tensor, scale: float, window: int | None
) -> Tensor:
    heads, tokens, width = query.shape[1:]
    key_heads, keys, broad = key.shape[1], key.shape[2], value.shape[-1]
    shared = heads // key_heads
    found = query.new_empty(1, tokens, heads, broad)
    groups = -(-tokens * shared // _GROUP)
    room = query.new_empty(groups * _GROUP * (width + broad + 4))
    seen = _MOST_KEYS if window is None else min(window, _MOST_KEYS)
    function(
        *(key_heads, shared, tokens, keys - tokens, seen, width, broad, scale),
        *(query.data_ptr(), query.stride(2), query.stride(1)),
        *(key.data_ptr(), key.stride(2), key.stride(1)),
        *(value.data_ptr(), value.stride(2), value.stride(1)),
        *(found.data_ptr(), room.data_ptr()),
    )
    return found.transpose(1, 2)


@cache
def _function() -> Any:
    function = compiled("attend_many_queries")
    if function is None:
        return None
    size, pointer = ctypes.c_size_t, ctypes.c_void_p
    places = [pointer, size, size]
    function.argtypes = [*[size] * 7, ctypes.c_float, *places, *places, *places, pointer, pointer]
    if not _is_right(function):
        logger.warning("attention of prompts, compiled here, is wrong: torch's is used instead")
        return None
    return function


def _is_right(function: Any) -> bool:
    """Whether it gives what torch gives, within rounding: compilers are not all the same."""
    dice = torch.Generator().manual_seed(0)
    query, key, value = (
        torch.randn(1, heads, tokens, 32, generator=dice) for heads, tokens in ((4, 70), (2, 150), (2, 150))
    )
    own, past = torch.arange(80, 150)[:, None], torch.arange(150)
    seen = (past <= own) & (past > own - 90)
    expected = scaled_dot_product_attention(query, key, value, attn_mask=seen, scale=0.2, enable_gqa=True)
    return torch.allclose(_attend(function, query, key, value, 0.2, 90), expected, atol=_TOLERANCE)
