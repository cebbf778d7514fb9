"""Products of states with a large weight matrix by the fastest library of this machine, as a trial finds it.

torch multiplies in float32 with the BLAS it was built with, which on some processors is slow, above all for a few rows:
with weights as checkpoints have them, `[out, in]`, a library first puts the whole matrix into another order. So the
trial also stores the weights by columns. Measured on an AMD EPYC, one thread, 5632 x 1024, in microseconds:

    rows of states                 1      4      8      16     256
    torch (MKL)                    1720   5032   5376   7075   -
    operands exchanged             1678   2541   4813   6059   -
    oneDNN                         1428   3261   3505   5004   41399
    NumPy (OpenBLAS)               1678   5232   5834   6445   -
    NumPy, weights by columns      1324   2434   2732   3747   33589

For a few rows of weights stored by columns there is a product of our own, which `few_rows` compiles. All of them use
the weights where they are. Only the order of additions differs.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from threadpoolctl import ThreadpoolController
from torch import Tensor, nn
from torch.nn.functional import linear

from swarm.shards.few_rows import by_few_rows, has_few_rows

Product = Callable[[Tensor, Tensor], Tensor]  # [B, n, in] contiguous, weight [out, in] -> [B, n, out]

_MOST_ROWS = {"one": 1, "few": 5, "several": 16, "many": 48}  # more are "bulk"
_TRIED_ROWS = {"one": 1, "few": 4, "several": 8, "many": 24, "bulk": 256}
_LEAST_SIZE = 1 << 16  # elements; below, the call costs more than the product
_TRIED_BYTES = 64 << 20  # more than caches hold
_ROUNDS = 4
_CLEAR_GAIN = 0.95
_HARDLY_SLOWER = 1.3  # trials differ by half as much, and compiled layers multiply one row as fast either way


class FastLinear(nn.Linear):
    """A float32 linear layer on the CPU; `products` says how it multiplies each kind of number of rows."""

    products: dict[str, Product]

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - as in nn.Linear
        kind = _kind(input.numel() // input.shape[-1])
        product = linear if torch._C._get_tracing_state() else self.products[kind]  # NumPy leaves no trace
        output = product(input, self.weight)
        return output if self.bias is None else output + self.bias


def _kind(rows: int) -> str:
    return next((kind for kind, most in _MOST_ROWS.items() if rows <= most), "bulk")


def limit_threads(count: int) -> None:
    """Let products, like all else that torch does, use this many threads."""
    torch.set_num_threads(count)
    ThreadpoolController().select(user_api="blas").limit(limits=count)


@dataclass(frozen=True, slots=True)
class _Way:
    """How layers of one shape multiply, and how long it takes them, for each number of rows."""

    products: dict[str, Product]
    seconds: dict[str, float]


def use_fast_products(model: nn.Module) -> int:
    """Let float32 layers of some size on the CPU multiply in the ways that are fastest here; returns how many do.

    The weights of all of them are stored by columns, or of none: layers that read the same states are to be joined.
    """
    shapes: dict[torch.Size, list[nn.Linear]] = {}
    for module in model.modules():
        if type(module) is nn.Linear and _is_eligible(module.weight):
            shapes.setdefault(module.weight.shape, []).append(module)
    weights = [[module.weight.detach() for module in modules] for modules in shapes.values()]
    ways = [_fastest(group) for group in weights]
    turned = _columns_gain(ways)
    changed = 0
    for modules, (stored, by_columns) in zip(shapes.values(), ways, strict=True):
        way = by_columns if turned else stored
        if all(product is linear for product in way.products.values()):
            continue
        for module in modules:
            module.__class__ = FastLinear  # parameters, hooks and references stay as they are
            module.products = way.products  # type: ignore[assignment]
            if turned and module.weight.is_contiguous():
                module.weight.data = store_by_columns(module.weight.data)
        changed += len(modules)
    return changed


def _is_eligible(weight: Tensor) -> bool:
    on_cpu = weight.device.type == "cpu" and weight.dtype == torch.float32
    return on_cpu and weight.is_contiguous() and weight.numel() >= _LEAST_SIZE


def store_by_columns(weight: Tensor) -> Tensor:
    """The same matrix, with the numbers of each column side by side."""
    return weight.t().contiguous().t()


def by_numpy(rows: Tensor, weight: Tensor) -> Tensor:
    """Any number of rows by NumPy's BLAS."""
    states = rows.detach().numpy().reshape(-1, rows.shape[-1])
    found: Any = np.dot(states, weight.detach().numpy().T)
    return torch.from_numpy(found).view(*rows.shape[:-1], -1)


def by_exchange(rows: Tensor, weight: Tensor) -> Tensor:
    """A few rows, with the operands exchanged: some BLAS repack the whole matrix otherwise."""
    product = (weight @ rows.reshape(-1, rows.shape[-1]).t()).t().contiguous()
    return product.view(*rows.shape[:-1], -1)


def by_onednn(rows: Tensor, weight: Tensor) -> Tensor:
    """Any number of rows by oneDNN."""
    found: Tensor = torch.ops.mkldnn._linear_pointwise(rows, weight, None, "none", [], "")
    return found


def candidates() -> Mapping[str, tuple[Product, ...]]:
    """What may be faster than torch's usual product, where it exists, with weights as they are."""
    onednn = (by_onednn,) if has_onednn() else ()
    others = dict.fromkeys(("several", "many", "bulk"), onednn)
    return {"one": (by_numpy, *onednn), "few": (by_exchange, *onednn), **others}


def column_candidates() -> Mapping[str, tuple[Product, ...]]:
    """What may be fastest with weights stored by columns; the first one is the usual one."""
    compiled = (by_few_rows,) if has_few_rows() else ()
    few, many = ("few", "several", "many"), ("many", "bulk")
    return {kind: (by_numpy, *(linear,) * (kind in many), *compiled * (kind in few)) for kind in _TRIED_ROWS}


def has_onednn() -> bool:
    """Whether `by_onednn` works here."""
    available: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    return available and hasattr(torch.ops.mkldnn, "_linear_pointwise")


@torch.inference_mode()
def _fastest(weights: Sequence[Tensor]) -> tuple[_Way, _Way]:
    """The fastest ways with weights as they are, and stored by columns."""
    tried = list(weights[: max(_TRIED_BYTES // weights[0].nbytes, 1)])
    by_columns = [store_by_columns(weight) for weight in tried]
    ways = _Way({}, {}), _Way({}, {})
    for kind, count in _TRIED_ROWS.items():
        most = 1 if kind == "bulk" else len(tried)  # products of many rows are not bound by memory
        rows = torch.ones(1, count, tried[0].shape[1])
        trials = [_Trial(product, tried[:most], 0) for product in (linear, *candidates()[kind])]
        trials += [_Trial(product, by_columns[:most], 1) for product in column_candidates()[kind]]
        _take_turns(trials, rows)
        for turned, way in enumerate(ways):
            best = _clearly_fastest([trial for trial in trials if trial.turned == turned])
            way.products[kind] = best.product
            way.seconds[kind] = best.seconds * len(weights) / most
    return ways


@dataclass(slots=True)
class _Trial:
    """A product with some weights, each in the best of its rounds; `turned` if these are stored by columns."""

    product: Product
    weights: Sequence[Tensor]
    turned: int
    best_s: list[float] = field(default_factory=list)

    @property
    def seconds(self) -> float:
        return sum(self.best_s)

    def take_turn(self, rows: Tensor) -> None:
        taken_s = []
        for weight in self.weights:
            started = time.perf_counter()
            self.product(rows, weight)
            taken_s.append(time.perf_counter() - started)
        # weight by weight: another process takes the core for milliseconds, and a whole round may never be free of it
        self.best_s = list(map(min, self.best_s, taken_s)) if self.best_s else taken_s


def _take_turns(trials: Sequence[_Trial], rows: Tensor) -> None:
    for _ in range(_ROUNDS):
        for trial in trials:
            trial.take_turn(rows)


def _clearly_fastest(trials: Sequence[_Trial]) -> _Trial:
    """The first one, torch's usual product, unless another one is clearly faster."""
    best = min(trials, key=lambda trial: trial.seconds)
    return best if best.seconds < _CLEAR_GAIN * trials[0].seconds else trials[0]


def _columns_gain(ways: Sequence[tuple[_Way, _Way]]) -> bool:
    """Whether weights stored by columns are clearly faster for many rows, and at least not slower for one.

    For a few rows the trial says little: layers that are joined then run faster than alone, which it does not see.
    """
    if not ways:
        return False
    share = {
        kind: sum(by_columns.seconds[kind] for _, by_columns in ways)
        / sum(stored.seconds[kind] for stored, _ in ways)
        for kind in _TRIED_ROWS
    }
    rows = [share[kind] for kind in ("several", "many", "bulk")]
    return sum(rows) < len(rows) * _CLEAR_GAIN and share["one"] < _HARDLY_SLOWER
