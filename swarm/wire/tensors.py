"""Tensors as bytes: C-contiguous, little-endian, in the order of their metadata, without copies where possible.

Where the two ends have agreed on a coding, numbers of tokens travel in it, and in nothing else.
"""

from __future__ import annotations

import sys
from collections.abc import Collection, Sequence
from math import prod
from typing import TYPE_CHECKING, Any

from swarm.core.config import Coding
from swarm.core.errors import PeerIncompatible, RequestError
from swarm.wire.int8_blocks import code, decode
from swarm.wire.message import MAX_DIMENSION, MAX_DIMENSIONS, MAX_TENSORS, DType, TensorMeta, is_codable
from swarm.wire.tensor_size import ITEM_BYTES, tensor_nbytes, tensors_nbytes

if TYPE_CHECKING:
    import torch

assert sys.byteorder == "little", "tensors travel little-endian; a big-endian machine would have to swap them"


Packed = tuple[list[TensorMeta], list[memoryview]]


def pack(tensors: dict[str, torch.Tensor], coding: Coding | None = None) -> Packed:
    """Metadata and bytes of `tensors`, in the agreed coding.

    The views share memory with tensors that are contiguous and on the CPU: keep those unchanged until they are sent.

    Raises:
        RequestError: if a tensor is empty, or larger in one of its dimensions than a message may say.
    """
    assert len(tensors) <= MAX_TENSORS
    metas: list[TensorMeta] = []
    views: list[memoryview] = []
    for name, tensor in tensors.items():
        dtype: Any = str(tensor.dtype).removeprefix("torch.")
        assert dtype in ITEM_BYTES, f"tensors of {tensor.dtype} do not travel"
        shape = list(tensor.shape)
        if not (0 < len(shape) <= MAX_DIMENSIONS and min(shape) > 0 and max(shape) <= MAX_DIMENSION):
            raise RequestError(f"{name} has the shape {shape}, which does not travel")
        used = None if coding is None else _used(coding, dtype, len(shape))
        metas.append(TensorMeta(name=name, dtype=dtype, shape=shape, coding=used))
        if used is None:
            views.append(bytes_of(tensor))
        else:
            views += map(bytes_of, code(tensor))
    return metas, views


def row_nbytes(tensors: dict[str, torch.Tensor], coding: Coding | None = None) -> int:
    """What one token of one row takes on the wire; tensors are `[rows, tokens, ...]`."""
    metas, _ = pack({name: tensor[:1, :1] for name, tensor in tensors.items()}, coding)
    return tensors_nbytes(metas)


def bytes_of(tensor: torch.Tensor) -> memoryview:
    """The memory of a tensor, or that of a copy if it is not contiguous on the CPU."""
    array: Any
    try:  # few calls: each of them costs twenty times its usual time after milliseconds of anything else
        array = tensor.numpy()
        return memoryview(array).cast("B")
    except (TypeError, RuntimeError):
        import torch

        array = tensor.detach().to("cpu").contiguous().view(torch.uint8).numpy()  # NumPy has no bfloat16
        return memoryview(array).cast("B")


def _used(agreed: Coding | None, dtype: DType, dimensions: int) -> Coding | None:
    return agreed if is_codable(dtype, dimensions) else None


def unpack(
    metas: Sequence[TensorMeta],
    payload: bytes | bytearray | memoryview,
    allowed: Collection[str] | None = None,
    coding: Coding | None = None,
) -> dict[str, torch.Tensor]:
    """The tensors in `payload`, sharing its memory: it must stay as it is for as long as they are used.

    Raises:
        PeerIncompatible: if names repeat or are not in `allowed`, the sizes do not add up to the payload, or tensors
            are coded otherwise than agreed.
    """
    view = memoryview(payload)
    tensors: dict[str, torch.Tensor] = {}
    announced = tensors_nbytes(metas)
    if announced != view.nbytes:
        raise PeerIncompatible(
            f"malformed message: tensors of {announced} bytes in a payload of {view.nbytes}"
        )
    offset = 0
    for meta in metas:
        _check_name(meta.name, tensors, allowed)
        if meta.coding is not None or coding is not None:
            _check_coding(meta, coding)
        part = view if len(metas) == 1 else view[offset : offset + tensor_nbytes(meta)]
        if offset % ITEM_BYTES[meta.dtype]:
            part = memoryview(bytearray(part))  # torch wants aligned memory
        tensors[meta.name] = _plain(meta, part) if meta.coding is None else _decoded(meta, part)
        offset += part.nbytes
    return tensors


def _plain(meta: TensorMeta, part: memoryview) -> torch.Tensor:
    import torch

    if meta.dtype == "bool":
        flat = torch.frombuffer(part, dtype=torch.uint8) != 0  # a bool with other bits set is undefined
    else:
        flat = torch.frombuffer(part, dtype=getattr(torch, meta.dtype))
    return flat.reshape(meta.shape)


def _decoded(meta: TensorMeta, part: memoryview) -> torch.Tensor:
    import torch

    count = prod(meta.shape)
    values = torch.frombuffer(part[:count], dtype=torch.int8)
    scales = torch.frombuffer(bytearray(part[count:]), dtype=torch.float32)  # aligned
    return decode(
        values.reshape(meta.shape), scales.reshape(*meta.shape[:-1], -1), getattr(torch, meta.dtype)
    )


def _check_coding(meta: TensorMeta, agreed: Coding | None) -> None:
    wanted = _used(agreed, meta.dtype, len(meta.shape))
    if meta.coding != wanted:
        raise PeerIncompatible(
            f"{meta.name} came as {meta.coding or meta.dtype}, agreed was {wanted or meta.dtype}"
        )


def _check_name(name: str, earlier: Collection[str], allowed: Collection[str] | None) -> None:
    if name in earlier:
        raise PeerIncompatible(f"malformed message: repeated tensor name {name!r}")
    if allowed is not None and name not in allowed and name.partition(".")[0] not in allowed:
        raise PeerIncompatible(f"malformed message: unexpected tensor {name!r}")
