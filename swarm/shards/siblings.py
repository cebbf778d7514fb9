"""Linear layers that read the same states (queries, keys and values; gate and up), multiplied in one product.

Which layers these are is seen in a trial run: the same tensor, unchanged, goes into one after the other. Their weights
are put into one matrix, of which each layer keeps its rows. When the first of them is called, all are computed; the
others find their part. After milliseconds of anything else a call costs many times its usual time, so that fewer calls
are worth it: a decode step of a chain of small layers takes 5% less. Where weights are stored by columns, several rows
are multiplied so, too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from swarm.shards.few_rows import by_few_rows
from swarm.shards.foreign_code import CANNOT_TRY, random_tensors
from swarm.shards.products import FastLinear, Product, by_numpy
from swarm.shards.step import Step

if TYPE_CHECKING:
    from swarm.shards.shard import Shard


class Siblings:
    """The weights of layers that read the same states, and what they made of the last ones."""

    def __init__(self, layers: Sequence[FastLinear]) -> None:
        weights = [layer.weight.detach() for layer in layers]
        joint = (
            torch.cat(weights) if weights[0].is_contiguous() else torch.cat([w.t() for w in weights], 1).t()
        )
        self._weight = joint
        self._last = len(layers) - 1
        self._bounds: list[tuple[int, int]] = []
        self._states: Tensor | None = None
        self._found = joint
        joint_products = _joint_products(layers)
        begin = 0
        for place, layer in enumerate(layers):
            end = begin + layer.out_features
            self._bounds.append((begin, end))
            layer.weight.data = joint[begin:end]
            parts = {kind: _Part(self, place, product) for kind, product in joint_products.items()}
            layer.products = {**layer.products, **parts}
            begin = end

    def part(self, place: int, states: Tensor, product: Product) -> Tensor | None:
        """What the layer at `place` makes of these states; None if the layers before it had others."""
        if place == 0:
            self._states = states
            self._found = product(states, self._weight)
        elif states is not self._states:
            return None
        begin, end = self._bounds[place]
        part = self._found[..., begin:end].contiguous()
        if place == self._last:
            self._states, self._found = None, self._weight
        return part


def _joint_products(layers: Sequence[FastLinear]) -> dict[str, Product]:
    """How all of them multiply, for the numbers of rows where it is in a way that pays at once."""
    first = layers[0].products
    return {
        kind: product
        for kind, product in first.items()
        if product in (by_numpy, by_few_rows) and all(layer.products[kind] is product for layer in layers)
    }


@dataclass(frozen=True, slots=True)
class _Part:
    """The product of some rows for one of the siblings, as `usual` makes it of all."""

    siblings: Siblings
    place: int
    usual: Product

    def __call__(self, rows: Tensor, weight: Tensor) -> Tensor:
        part = self.siblings.part(self.place, rows, self.usual)
        return self.usual(rows, weight) if part is None else part


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
    return different and all(layer.products["one"] in (by_numpy, by_few_rows) for layer in group)
