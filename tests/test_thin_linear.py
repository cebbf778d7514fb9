"""Products with exchanged operands are the same products."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from swarm.shards.thin_linear import ThinLinear, use_thin_products


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(1, 1), (1, 2), (2, 2), (1, 5), (3, 1), (1, 6), (2, 9)])
def test_a_thin_product_is_the_usual_one(shape: tuple[int, int], bias: bool) -> None:
    torch.manual_seed(0)
    layer = nn.Linear(24, 40, bias=bias)
    states = torch.randn(*shape, 24)
    with torch.inference_mode():
        expected = layer(states)
        layer.__class__ = ThinLinear
        found = layer(states)
    assert found.is_contiguous()
    torch.testing.assert_close(found, expected)


def test_small_and_half_precision_layers_stay_as_they_are() -> None:
    model = nn.Sequential(nn.Linear(64, 64), nn.Linear(1024, 512, dtype=torch.bfloat16))
    assert use_thin_products(model) == 0
    assert [type(layer) for layer in model] == [nn.Linear, nn.Linear]


def test_a_large_layer_is_changed_in_place_or_not_at_all() -> None:
    layer = nn.Linear(1024, 512)
    weight = layer.weight
    assert use_thin_products(nn.Sequential(layer)) == isinstance(layer, ThinLinear)
    assert layer.weight is weight
