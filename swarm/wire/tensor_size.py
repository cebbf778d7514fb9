"""How many bytes announced tensors take, computed before anything is allocated."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from swarm.wire.messages import DType, TensorMeta

ITEM_BYTES: dict[DType, int] = {"float32": 4, "bfloat16": 2, "float16": 2, "int64": 8, "bool": 1}


def tensor_nbytes(meta: TensorMeta) -> int:
    """Bytes of one tensor (Python integers: nothing overflows)."""
    return prod(meta.shape) * ITEM_BYTES[meta.dtype]


def tensors_nbytes(metas: Sequence[TensorMeta]) -> int:
    """Bytes of all tensors together."""
    return sum(tensor_nbytes(meta) for meta in metas)
