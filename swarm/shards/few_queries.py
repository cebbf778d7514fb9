"""Attention of single new tokens, compiled for this processor where there is a C compiler.

A decode step reads the keys and values of all that is cached. torch's kernel takes twice as long for that as memory
does, since it is made for many queries. `attend_few_queries.c` takes 0.5 to 0.75 of its time (docs/adr/0015).
"""

from __future__ import annotations

import ctypes
from functools import cache
from typing import Any

import torch
from torch import Tensor

from swarm.shards.compiled import compiled

LANES = 8
WIDEST = 256


def can_attend(query: Tensor, key: Tensor, value: Tensor) -> bool:
    """Whether `by_few_queries` takes these, and is likely to be faster than torch's kernel: that uses all threads."""
    if torch.get_num_threads() > 1 or query.shape[0] > 1 or torch._C._get_tracing_state():
        return False
    for states in (query, key, value):
        width = states.shape[-1]
        if states.dtype != torch.float32 or states.device.type != "cpu" or states.stride(-1) != 1:
            return False
        if width % LANES or width > WIDEST:
            return False
    return _function() is not None


def by_few_queries(query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
    """`[1, H, 1, D]` for a query `[1, H, 1, D]` that sees all keys and values `[1, K, S, D]`; see `can_attend`."""
    heads, key_heads, keys = query.shape[1], key.shape[1], key.shape[2]
    queries = query.contiguous()
    found = queries.new_empty(1, heads, 1, value.shape[-1])
    _function()(
        *(key_heads, heads // key_heads, keys, query.shape[-1], value.shape[-1], scale, queries.data_ptr()),
        *(key.data_ptr(), key.stride(2), key.stride(1)),
        *(value.data_ptr(), value.stride(2), value.stride(1)),
        found.data_ptr(),
    )
    return found


@cache
def _function() -> Any:
    function = compiled("attend_few_queries")
    if function is not None:
        size, pointer = ctypes.c_size_t, ctypes.c_void_p
        places = [pointer, size, size]
        function.argtypes = [*[size] * 5, ctypes.c_float, pointer, *places, *places, pointer]
    return function
