"""Random queries, keys and values, as attention gets them."""

from __future__ import annotations

import torch
from torch import Tensor


def states(heads: int, tokens: int, width: int, spare: int = 0) -> Tensor:
    """`[1, heads, tokens, width]`, as a view of a buffer with room behind it."""
    return torch.randn(1, heads, tokens + spare, width)[:, :, :tokens]
