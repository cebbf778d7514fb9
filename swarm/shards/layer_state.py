"""What a cache layer holds, as tensors: read out in parts, and written into an empty layer of the same kind.

Shapes: B rows, K key heads, n tokens, D head size.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import LinearAttentionLayer

from swarm.core.errors import RequestError
from swarm.shards.room import GrowingLayer, GrowingSlidingLayer


@dataclass(frozen=True, slots=True)
class TensorForm:
    """The dtype of a tensor of one row, and its shape; -1 stands for any number of tokens."""

    dtype: torch.dtype
    shape: tuple[int, ...]

    def check(self, name: str, tensor: Tensor, rows: int) -> None:
        """Raises:
        RequestError: if `tensor` is none of this form with so many rows.
        """
        expected = (rows, *self.shape[1:])
        same = tensor.dim() == len(expected)
        if not same or any(want not in (-1, have) for want, have in zip(expected, tensor.shape, strict=True)):
            raise RequestError(f"{name} has shape {list(tensor.shape)}, expected is {list(expected)}")
        if tensor.dtype != self.dtype:
            raise RequestError(f"{name} is {tensor.dtype}, expected is {self.dtype}")


@dataclass(frozen=True, slots=True)
class LayerForm:
    """The tensors of a cache layer by name; `by_tokens` says whether they can be cut along their tokens.

    `kernels` are the sizes of a linear layer's convolutions.
    """

    tensors: dict[str, TensorForm]
    by_tokens: bool
    kernels: dict[int, int]

    def check(self, tensors: dict[str, Tensor], rows: int) -> None:
        """Raises:
        RequestError: if these are not exactly the tensors of such a layer with so many rows.
        """
        if tensors.keys() != self.tensors.keys():
            raise RequestError(f"a part of this layer has {sorted(self.tensors)}, not {sorted(tensors)}")
        for name, form in self.tensors.items():
            form.check(name, tensors[name], rows)
        if self.by_tokens and len({tensor.shape[2] for tensor in tensors.values()}) > 1:
            raise RequestError("keys and values of a part are of different lengths")


def form_of(layer: Any) -> LayerForm | None:
    """The form of a layer that has seen a token in one row; None if it is of a kind that cannot be moved."""
    if type(layer) in (GrowingLayer, GrowingSlidingLayer):
        if not layer.is_initialized:
            return LayerForm({}, by_tokens=False, kernels={})
        pair = {"keys": layer.keys, "values": layer.values}
        forms = {name: TensorForm(t.dtype, (1, t.shape[1], -1, t.shape[3])) for name, t in pair.items()}
        return LayerForm(forms, by_tokens=True, kernels={})
    if type(layer) is LinearAttentionLayer:
        forms = {}
        for name, tensor in _linear_states(layer).items():
            free = -1 if name.startswith("conv.") else tensor.shape[-1]  # a recorded past is longer
            forms[name] = TensorForm(tensor.dtype, (*tensor.shape[:-1], free))
        kernels = {i: size for i, size in layer.conv_kernel_size.items() if size is not None}
        return LayerForm(forms, by_tokens=False, kernels=kernels)
    return None


def forms_of(layers: dict[int, Any]) -> dict[int, LayerForm]:
    """The forms of those of these layers that can be moved."""
    found = {index: form_of(layer) for index, layer in layers.items()}
    return {index: form for index, form in found.items() if form is not None}


def held_range(layer: Any, length: int) -> range:
    """The positions that an attention layer holds of a session of `length` tokens."""
    count = layer.keys.shape[-2] if layer.is_initialized else 0
    return range(length - count, length)


def read_tokens(layer: Any, begin: int, end: int) -> dict[str, Tensor]:
    """Keys and values `[B, K, n, D]` of the held tokens `begin` to `end`, counted from the first held one; views."""
    return {"keys": layer.keys[..., begin:end, :], "values": layer.values[..., begin:end, :]}


def read_whole(layer: Any) -> dict[str, Tensor]:
    """All states of a layer that cannot be cut along its tokens."""
    return _linear_states(layer) if isinstance(layer, LinearAttentionLayer) else {}


def write_tokens(layer: Any, tensors: dict[str, Tensor], device: torch.device) -> None:
    """Append keys and values to an attention layer, of which nothing is forgotten before `settle`."""
    keys, values = tensors["keys"].to(device), tensors["values"].to(device)
    if not layer.is_initialized:
        layer.lazy_initialization(keys, values)
    layer.keys, layer.values = (
        layer.rooms[0].extend(layer.keys, keys),
        layer.rooms[1].extend(layer.values, values),
    )


def settle(layer: Any, length: int) -> None:
    """All that a layer holds of a session of `length` tokens has been written."""
    if isinstance(layer, GrowingSlidingLayer):
        layer.cumulative_length = length


def write_whole(layer: Any, tensors: dict[str, Tensor], form: LayerForm, device: torch.device) -> None:
    """Put the states into an empty linear layer."""
    for name, tensor in tensors.items():
        kind, _, index = name.partition(".")
        i, state = int(index), tensor.to(device, copy=True)
        if kind == "conv":
            layer.dtype, layer.device = state.dtype, state.device
            layer.conv_states[i] = state
            layer.conv_kernel_size[i] = form.kernels[i]
            layer.is_conv_states_initialized[i] = layer.has_previous_state[i] = True
        else:
            layer.device = state.device if layer.device is None else layer.device
            layer.recurrent_states[i] = state
            layer.is_recurrent_states_initialized[i] = True


def needed_tokens(layer: Any, length: int) -> int:
    """How many of the last tokens of a session a layer must hold to go on."""
    if isinstance(layer, GrowingSlidingLayer):
        return min(length, int(layer.sliding_window) - 1)
    return length


def _linear_states(layer: Any) -> dict[str, Tensor]:
    states = {f"conv.{i}": state for i, state in layer.conv_states.items()}
    states |= {f"recurrent.{i}": state for i, state in layer.recurrent_states.items()}
    return {name: state for name, state in states.items() if state is not None}
