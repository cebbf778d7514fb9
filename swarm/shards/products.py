"""Products of states with a large weight matrix by the fastest library of this machine, as a trial finds it.

torch multiplies in float32 with the BLAS it was built with, which on some processors is slow: measured on an AMD EPYC,
one thread, 2816 x 1024, in microseconds:

    rows of states      1     2     4     16    128
    torch (MKL)         560   1261  948   1557  7382
    NumPy (OpenBLAS)    355   1130  1011  1578  6587
    operands exchanged  549   493   515   1714  7630
    oneDNN              411   630   673   905   3445

All of them use the weights where they are. Only the order of additions differs.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from threadpoolctl import ThreadpoolController
from torch import Tensor, nn
from torch.nn.functional import linear

Product = Callable[[Tensor, Tensor], Tensor]  # [B, n, in] contiguous, weight [out, in] -> [B, n, out]

_FEW_ROWS = 5
_TRIED_ROWS = {"one": 1, "few": 4, "many": 16}
_LEAST_SIZE = 1 << 16  # elements; below, the call costs more than the product
_TRIED_BYTES = 64 << 20  # more than caches hold
_ROUNDS = 4
_CLEAR_GAIN = 0.95


class FastLinear(nn.Linear):
    """A float32 linear layer on the CPU; `products` says how it multiplies one row, a few rows and many."""

    products: dict[str, Product]

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - as in nn.Linear
        rows = input.numel() // input.shape[-1]
        kind = "one" if rows == 1 else "few" if rows <= _FEW_ROWS else "many"
        product = linear if torch._C._get_tracing_state() else self.products[kind]  # NumPy leaves no trace
        output = product(input, self.weight)
        return output if self.bias is None else output + self.bias


def limit_threads(count: int) -> None:
    """Let products, like all else that torch does, use this many threads."""
    torch.set_num_threads(count)
    ThreadpoolController().select(user_api="blas").limit(limits=count)


def use_fast_products(model: nn.Module) -> int:
    """Let float32 layers of some size on the CPU multiply in the ways that are fastest here; returns how many do."""
    shapes: dict[torch.Size, list[nn.Linear]] = {}
    for module in model.modules():
        if type(module) is nn.Linear and _is_eligible(module.weight):
            shapes.setdefault(module.weight.shape, []).append(module)
    changed = 0
    for modules in shapes.values():
        products = _fastest([module.weight.detach() for module in modules])
        if all(product is linear for product in products.values()):
            continue
        for module in modules:
            module.__class__ = FastLinear  # parameters, hooks and references stay as they are
            module.products = products  # type: ignore[assignment]
        changed += len(modules)
    return changed


def _is_eligible(weight: Tensor) -> bool:
    on_cpu = weight.device.type == "cpu" and weight.dtype == torch.float32
    return on_cpu and weight.is_contiguous() and weight.numel() >= _LEAST_SIZE


def by_numpy(rows: Tensor, weight: Tensor) -> Tensor:
    """One row by NumPy's BLAS."""
    found: Any = np.dot(weight.detach().numpy(), rows.detach().numpy().reshape(-1))
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
    """What may be faster than torch's usual product, where it exists."""
    onednn = (by_onednn,) if torch.backends.mkldnn.is_available() and _has_onednn() else ()  # type: ignore[no-untyped-call]
    return {"one": (by_numpy, *onednn), "few": (by_exchange, *onednn), "many": onednn}


def _has_onednn() -> bool:
    return hasattr(torch.ops.mkldnn, "_linear_pointwise")


@torch.inference_mode()
def _fastest(weights: list[Tensor]) -> dict[str, Product]:
    """For each number of rows the product that is clearly faster than the usual one; else that one."""
    tried = weights[: max(_TRIED_BYTES // weights[0].nbytes, 1)]
    chosen: dict[str, Product] = {}
    for kind, others in candidates().items():
        rows = torch.ones(1, _TRIED_ROWS[kind], tried[0].shape[1])
        spent = _seconds((linear, *others), rows, tried)
        best = min(spent, key=lambda product: spent[product])
        chosen[kind] = best if spent[best] < _CLEAR_GAIN * spent[linear] else linear
    return chosen


def _seconds(products: tuple[Product, ...], rows: Tensor, weights: list[Tensor]) -> dict[Product, float]:
    """The best of several rounds in which all take turns."""
    best = dict.fromkeys(products, float("inf"))
    for _ in range(_ROUNDS):
        for product in products:
            started = time.perf_counter()
            for weight in weights:
                product(rows, weight)
            best[product] = min(best[product], time.perf_counter() - started)
    return best
