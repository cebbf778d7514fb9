"""Memory for tensors that live as long as a session: mapped from the system, and given back to it at once.

The C library's heap would keep the holes that sessions leave when they grow and end.
"""

from __future__ import annotations

import math
import mmap
from collections.abc import Sequence

import torch
from torch import Tensor

_LEAST_BYTES = 32 * mmap.PAGESIZE


def mapped_empty(sizes: Sequence[int], dtype: torch.dtype, device: torch.device) -> Tensor:
    """As `torch.empty`; large tensors of the CPU are mapped."""
    nbytes = math.prod(sizes) * dtype.itemsize
    if device.type != "cpu" or nbytes < _LEAST_BYTES:
        return torch.empty(*sizes, dtype=dtype, device=device)
    private = mmap.mmap(-1, nbytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    return torch.frombuffer(private, dtype=dtype).view(*sizes)
