"""How many bytes announced tensors take, computed before anything is allocated."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from swarm.wire.message import DType, TensorMeta

ITEM_BYTES: dict[DType, int] = {"float32": 4, "bfloat16": 2, "float16": 2, "int64": 8, "int32": 4, "bool": 1}
BLOCK_VALUES = 64
SCALE_BYTES = 4


def tensor_nbytes(meta: TensorMeta) -> int:
    """Bytes of one tensor in the payload (Python integers: nothing overflows)."""
    if meta.coding is None:
        return _plain_nbytes(meta)
    blocks = -(-meta.shape[-1] // BLOCK_VALUES)
    return prod(meta.shape) + prod(meta.shape[:-1]) * blocks * SCALE_BYTES


def tensors_nbytes(metas: Sequence[TensorMeta]) -> int:
    """Bytes of all tensors together in the payload."""
    return sum(tensor_nbytes(meta) for meta in metas)


def decoded_nbytes(metas: Sequence[TensorMeta]) -> int:
    """Bytes that all tensors together take in memory."""
    return sum(_plain_nbytes(meta) for meta in metas)


def _plain_nbytes(meta: TensorMeta) -> int:
    return prod(meta.shape) * ITEM_BYTES[meta.dtype]
