"""Safetensors files, read tensor by tensor, and which of their keys a model needs."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor
from transformers import PreTrainedModel
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import WeightConverter, WeightRenaming, rename_source_key

from swarm.shards.file_errors import reading


class LazyTensors(dict[str, "LazyTensor"]):
    """Checkpoint key to tensor, for the given keys; a file is opened when one of its keys is first read.

    Attributes:
        bytes_read: size of everything read so far.
    """

    def __init__(self, files: dict[str, str], locate: Callable[[str], Path], keys: Iterable[str]) -> None:
        super().__init__()
        self._files = files
        self._locate = locate
        self._open: dict[str, tuple[Path, Any]] = {}
        self.bytes_read = 0
        for key in keys:
            self[key] = LazyTensor(self, key)

    def add_alias(self, name: str, key: str) -> None:
        """Let the tensor of checkpoint key `key` also be found under `name`."""
        self[name] = LazyTensor(self, key)

    def prepare(self) -> None:
        """Fetch and open every file that holds one of the keys, so that what is missing shows up early."""
        for name in sorted({self._files[tensor.key] for tensor in self.values()}):
            self._handle(name)

    def close(self) -> None:
        """Let go of the files."""
        self._open.clear()

    def slice_of(self, key: str) -> tuple[Path, Any]:
        """The file of `key` and safetensors' lazy slice in it."""
        path, handle = self._handle(self._files[key])
        with reading(path):
            return path, handle.get_slice(key)

    def _handle(self, name: str) -> tuple[Path, Any]:
        if name not in self._open:
            path = self._locate(name)
            with reading(path):
                self._open[name] = path, safe_open(path, "pt")
        return self._open[name]


class LazyTensor:
    """One tensor of a checkpoint; transformers reads it by indexing."""

    def __init__(self, store: LazyTensors, key: str) -> None:
        self._store = store
        self.key = key

    def __getitem__(self, index: Any) -> Tensor:
        path, piece = self._store.slice_of(self.key)
        with reading(path):
            tensor: Tensor = piece[index]
        self._store.bytes_read += tensor.numel() * tensor.element_size()
        return tensor

    def get_shape(self) -> list[int]:
        shape: list[int] = self._store.slice_of(self.key)[1].get_shape()
        return shape

    def get_dtype(self) -> str:
        dtype: str = self._store.slice_of(self.key)[1].get_dtype()
        return dtype


def renamed_keys(model: PreTrainedModel, checkpoint_keys: Iterable[str]) -> dict[str, str]:
    """Checkpoint key to the name its tensor has in `model`, after transformers' own renaming and fusing of keys."""
    transforms = get_model_conversion_mapping(model, None, None)
    renamings = [entry for entry in transforms if isinstance(entry, WeightRenaming)]
    converters = [entry for entry in transforms if isinstance(entry, WeightConverter)]
    state: dict[str, Tensor] = model.state_dict()
    prefix = model.base_model_prefix
    return {key: rename_source_key(key, renamings, converters, prefix, state)[0] for key in checkpoint_keys}


def needed_keys(model: PreTrainedModel, renamed: dict[str, str]) -> list[str]:
    """Which checkpoint keys feed the (meta) `model`; `renamed` comes from `renamed_keys`."""
    state: dict[str, Tensor] = model.state_dict()
    leaves = {name for name, module in model.named_modules() if module._parameters or module._buffers}
    needed = []
    for key, name in renamed.items():
        parts = name.split(".")
        # a quantized checkpoint keeps extra tensors beside a weight: X.weight.absmax, X.qweight
        beside = any(".".join(parts[:end]) in leaves for end in range(2, len(parts)))
        if name in state or key in state or beside:
            needed.append(key)
    return needed


def weight_bytes(model: PreTrainedModel, dtype: torch.dtype) -> int:
    """Memory of the parameters of `model` in `dtype`."""
    return sum(parameter.numel() for parameter in model.parameters()) * dtype.itemsize
