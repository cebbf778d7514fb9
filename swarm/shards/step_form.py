"""Which tensors a model's steps consist of, and the check that they do."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from swarm.core.errors import RequestError
from swarm.shards.stack import LayerCall
from swarm.shards.step import StepTensors
from swarm.shards.traits import ModelTraits

_OPTIONAL = ("mask", "positions")
_DTYPES = {"mask": torch.bool, "positions": torch.int64, "token_ids": torch.int64}


@dataclass(frozen=True, slots=True)
class StepForm:
    """What decides the tensors of a model's steps."""

    boundary: tuple[int, ...]
    hidden_size: int
    vocabulary: int
    traits: ModelTraits
    call: LayerCall

    @property
    def takes_bare(self) -> bool:
        """Whether a hidden state alone is a step of this model."""
        traits = self.traits
        return not (traits.needs_token_ids or traits.needs_embeds or traits.per_layer_width)

    def is_hidden(self, hidden: Tensor) -> bool:
        """Whether this is a hidden state between layers."""
        return hidden.shape[2:] == self.boundary and hidden.dim() > 2 and hidden.is_floating_point()

    def shapes(self, tensors: StepTensors, layers_ahead: int) -> dict[str, tuple[int, ...]]:
        """The shape of every tensor that may be there; -1 stands for any size."""
        rows, count = tensors.hidden.shape[:2] if tensors.hidden.dim() >= 2 else (-1, -1)
        shapes: dict[str, tuple[int, ...]] = {
            "hidden": (rows, count, *self.boundary),
            "mask": (rows, count),
            "positions": (rows, count),
        }
        if self.traits.needs_token_ids:
            shapes["token_ids"] = (rows, count)
        if self.traits.needs_embeds:
            shapes["embeds"] = (rows, count, self.hidden_size)
        if self.traits.per_layer_width and layers_ahead:
            shapes["per_layer"] = (rows, count, layers_ahead, self.traits.per_layer_width)
        carried = zip(tensors.carry, self.call.carried, strict=False)
        for index, (value, is_carried) in enumerate(carried):
            if value is not None and is_carried:
                shapes[f"carry.{index}"] = (rows, count, *[-1] * (value.dim() - 2))
        return shapes


def check_tensors(tensors: StepTensors, form: StepForm, *, layers_ahead: int) -> None:
    """Refuse what does not fit the model; `layers_ahead` counts the layers from here to the last one.

    Raises:
        RequestError: naming the tensor and what was expected.
    """
    if tensors.is_bare and form.takes_bare and form.is_hidden(tensors.hidden):
        return
    expected = form.shapes(tensors, layers_ahead)
    named = tensors.named()
    for name in expected:
        if name not in named and name not in _OPTIONAL:
            raise RequestError(
                f"this model's layers need {name} of shape {list(expected[name])} in every step"
            )
    for name, value in named.items():
        if name not in expected:
            raise RequestError(f"this model's layers take no tensor {name!r}")
        _check_shape(name, value, expected[name])
        _check_dtype(name, value)
    _check_values(tensors, form)


def _check_shape(name: str, value: Tensor, expected: tuple[int, ...]) -> None:
    same = value.dim() == len(expected)
    if not same or any(want not in (-1, have) for want, have in zip(expected, value.shape, strict=True)):
        raise RequestError(f"{name} has shape {list(value.shape)}, expected is {list(expected)}")


def _check_dtype(name: str, value: Tensor) -> None:
    wanted = _DTYPES.get(name)
    right = (
        value.dtype == wanted if wanted is not None else value.is_floating_point() or name.startswith("carry")
    )
    if not right:
        raise RequestError(f"{name} has the wrong type {value.dtype}")


def _check_values(tensors: StepTensors, form: StepForm) -> None:
    """Numbers that index tables must be within them."""
    if tensors.positions is not None:
        low, high = (int(value) for value in tensors.positions.aminmax())
        limit = form.traits.position_limit
        if low < 0 or (limit is not None and high >= limit):
            raise RequestError(f"positions {low} to {high} are not within 0 and {(limit or 1 << 62) - 1}")
    if tensors.token_ids is not None:
        low, high = (int(value) for value in tensors.token_ids.aminmax())
        if low < 0 or high >= form.vocabulary:
            raise RequestError(f"token ids must be within 0 and {form.vocabulary - 1}")
