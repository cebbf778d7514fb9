"""Linear layers that read the same states (queries, keys and values; gate and up), multiplied in one product.

Which layers these are is seen in a trial run: the same tensor, unchanged, goes into one after the other. Their weights
are put into one matrix, of which each layer keeps its rows. When the first of them is called with one row of states,
all are computed; the others find their part. After milliseconds of anything else a call costs many times its usual
time, so that fewer calls are worth it: a decode step of a chain of small layers takes 5% less.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from swarm.shards.foreign_code import CANNOT_TRY, random_tensors
from swarm.shards.products import FastLinear, by_numpy
from swarm.shards.step import Step

if TYPE_CHECKING:
    from swarm.shards.shard import Shard


class Siblings:
    """The weights of layers that read the same states, and what they made of the last ones."""

    def __init__(self, layers: Sequence[FastLinear]) -> None:
        joint = torch.cat([layer.weight.detach() for layer in layers])
        self._weight: Any = joint.numpy()
        self._last = len(layers) - 1
        self._bounds: list[tuple[int, int]] = []
        self._states: Tensor | None = None
        self._found: Any = None
        begin = 0
        for place, layer in enumerate(layers):
            end = begin + layer.out_features
            self._bounds.append((begin, end))
            layer.weight.data = joint[begin:end]
            layer.products = {**layer.products, "one": _Part(self, place)}
            begin = end

    def product(self, place: int, states: Tensor) -> Tensor | None:
        """What the layer at `place` makes of one row; None if the layers before it had other states."""
        if place == 0:
            self._states = states
            self._found = np.dot(self._weight, states.numpy().reshape(-1))
        elif states is not self._states:
            return None
        begin, end = self._bounds[place]
        part = torch.from_numpy(self._found[begin:end]).view(*states.shape[:-1], -1)
        if place == self._last:
            self._states = self._found = None
        return part


@dataclass(frozen=True, slots=True)
class _Part:
    """The product of one row for one of the siblings."""

    siblings: Siblings
    place: int

    def __call__(self, rows: Tensor, weight: Tensor) -> Tensor:
        part = self.siblings.product(self.place, rows)
        return by_numpy(rows, weight) if part is None else part


def join_siblings(shard: Shard) -> int:
    """Join the layers of `shard` that read the same states; returns how many groups there are."""
    if not any(isinstance(module, FastLinear) for module in shard.stack.modules()):
        return 0
    calls = _Calls()
    hooks = [
        module.register_forward_pre_hook(calls.note)
        for module in shard.stack.modules()
        if isinstance(module, FastLinear)
    ]
    tensors = random_tensors(shard, shard.span, torch.Generator().manual_seed(0))
    try:
        shard.open(shard.span, rollback=False).apply(Step(0, 0, tensors))
    except CANNOT_TRY:
        return 0  # layers that need what earlier ones hand over cannot be tried alone
    finally:
        for hook in hooks:
            hook.remove()
    groups = [group for group in calls.groups if _can_join(group)]
    for group in groups:
        Siblings(group)
    return len(groups)


class _Calls:
    """Which layers were called one after the other with the same, unchanged tensor."""

    def __init__(self) -> None:
        self.groups: list[list[FastLinear]] = []
        self._states: Tensor | None = None
        self._before: Tensor | None = None

    def note(self, layer: nn.Module, inputs: tuple[Any, ...]) -> None:
        assert isinstance(layer, FastLinear)
        states: Tensor = inputs[0]
        same = self._before is not None and states is self._states and torch.equal(states, self._before)
        if same:
            self.groups[-1].append(layer)
        else:
            self.groups.append([layer])
            self._states, self._before = states, states.clone()


def _can_join(group: list[FastLinear]) -> bool:
    different = len({id(layer.weight) for layer in group}) == len(group) > 1
    return different and all(layer.products["one"] is by_numpy for layer in group)
