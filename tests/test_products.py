"""Products in other ways are the same products."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.functional import linear

from swarm.shards.products import (
    FastLinear,
    Product,
    by_numpy,
    candidates,
    column_candidates,
    store_by_columns,
    use_fast_products,
)

PRODUCTS = dict.fromkeys([by_numpy, *(product for ways in candidates().values() for product in ways)])
WAYS = [pytest.param(product, id=product.__name__) for product in PRODUCTS]


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(1, 1), (1, 2), (2, 2), (1, 5), (3, 1), (1, 6), (2, 9)])
def test_a_fast_product_is_the_usual_one(shape: tuple[int, int], bias: bool) -> None:
    torch.manual_seed(0)
    layer = nn.Linear(24, 40, bias=bias)
    states = torch.randn(*shape, 24)
    with torch.inference_mode():
        expected = layer(states)
        for product in (linear, *PRODUCTS):
            layer.__class__ = FastLinear
            layer.products = dict.fromkeys(candidates(), product)  # type: ignore[assignment]
            found = layer(states)
            assert found.is_contiguous()
            torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("product", WAYS)
def test_rows_need_not_lie_together(product: Product) -> None:
    torch.manual_seed(0)
    weight, states = torch.randn(40, 24), torch.randn(1, 7, 48)[:, 3:4, ::2]
    torch.testing.assert_close(product(states, weight), linear(states, weight))


@pytest.mark.parametrize("product", [linear, *column_candidates()["few"]])
def test_weights_stored_by_columns_are_the_same_matrix(product: Product) -> None:
    torch.manual_seed(0)
    weight, states = torch.randn(40, 24), torch.randn(1, 7, 24)
    stored = store_by_columns(weight)
    assert stored.t().is_contiguous()
    assert torch.equal(stored, weight)
    torch.testing.assert_close(product(states, stored), linear(states, weight))


def test_small_and_half_precision_layers_stay_as_they_are() -> None:
    model = nn.Sequential(nn.Linear(64, 64), nn.Linear(1024, 512, dtype=torch.bfloat16))
    assert use_fast_products(model) == 0
    assert [type(layer) for layer in model] == [nn.Linear, nn.Linear]


def test_a_large_layer_is_changed_in_place_or_not_at_all() -> None:
    layer = nn.Linear(1024, 512)
    weight = layer.weight
    assert use_fast_products(nn.Sequential(layer)) == isinstance(layer, FastLinear)
    assert layer.weight is weight
