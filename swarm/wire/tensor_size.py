"""How many bytes announced tensors take, computed before anything is allocated."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from swarm.core.errors import PeerIncompatible
from swarm.wire.message import DType, TensorMeta, is_codable

ITEM_BYTES: dict[DType, int] = {"float32": 4, "bfloat16": 2, "float16": 2, "int64": 8, "int32": 4, "bool": 1}
BLOCK_VALUES = 64
SCALE_BYTES = 4
MOST_TIMES_CODED = 4  # no coded tensor takes more memory than so many times its payload


def tensor_nbytes(meta: TensorMeta) -> int:
    """Bytes of one tensor in the payload (Python integers: nothing overflows).

    Raises:
        PeerIncompatible: if it says that it is coded as such tensors are not; so do the others.
    """
    return _plain_nbytes(meta) if meta.coding is None else _coded_nbytes(meta)


def tensors_nbytes(metas: Sequence[TensorMeta]) -> int:
    """Bytes of all tensors together in the payload."""
    return both_nbytes(metas)[0]


def decoded_nbytes(metas: Sequence[TensorMeta]) -> int:
    """Bytes that all tensors together take in memory."""
    return both_nbytes(metas)[1]


def both_nbytes(metas: Sequence[TensorMeta]) -> tuple[int, int]:
    """Bytes of all tensors together, in the payload and in memory."""
    # one loop without calls of ours: each costs many times its usual time between the work of two steps
    payload_bytes = decoded_bytes = 0
    for meta in metas:
        plain = prod(meta.shape) * ITEM_BYTES[meta.dtype]
        decoded_bytes += plain
        payload_bytes += plain if meta.coding is None else _coded_nbytes(meta)
    return payload_bytes, decoded_bytes


def _plain_nbytes(meta: TensorMeta) -> int:
    return prod(meta.shape) * ITEM_BYTES[meta.dtype]


def _coded_nbytes(meta: TensorMeta) -> int:
    if not is_codable(meta.dtype, len(meta.shape)):
        raise PeerIncompatible("malformed message: only floats of single tokens are coded")
    blocks = -(-meta.shape[-1] // BLOCK_VALUES)
    return prod(meta.shape) + prod(meta.shape[:-1]) * blocks * SCALE_BYTES
