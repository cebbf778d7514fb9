"""Products of a few rows, compiled for this processor where there is a C compiler.

A batch of decode steps is a product of a few rows with every weight of a layer. The libraries at hand put each matrix
into another order first, which for a few rows takes longer than the product itself. `multiply_few_rows.c` does not: it
takes weights stored by columns as they are, and needs half of a library's time for 2 to 16 rows (docs/adr/0015).
"""

from __future__ import annotations

import ctypes
from functools import cache
from typing import Any

from torch import Tensor

from swarm.shards.compiled import compiled


def by_few_rows(rows: Tensor, weight: Tensor) -> Tensor:
    """Rows `[B, n, in]` times a float32 matrix `[out, in]` stored by columns, in the calling thread alone.

    Raises:
        RuntimeError: if it could not be compiled; see `has_few_rows`.
    """
    multiply = _function()
    if multiply is None:
        raise RuntimeError("there is no compiled product on this machine")
    assert weight.stride(0) == 1, "the weights are stored by rows"
    states = rows.contiguous()
    out, width = weight.shape
    found = states.new_empty(*states.shape[:-1], out)
    pointers = states.data_ptr(), weight.data_ptr(), weight.stride(1), found.data_ptr()
    multiply(states.numel() // width, width, out, *pointers)
    return found


def has_few_rows() -> bool:
    """Whether `by_few_rows` works here; the first call compiles it."""
    return _function() is not None


@cache
def _function() -> Any:
    function = compiled("multiply_few_rows")
    if function is not None:
        size, pointer = ctypes.c_size_t, ctypes.c_void_p
        function.argtypes = [size, size, size, pointer, pointer, size, pointer]
    return function
