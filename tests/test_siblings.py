"""Layers that read the same states are multiplied at once, and nothing else changes."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.functional import linear

from swarm.core.span import Span
from swarm.shards.products import (
    FastLinear,
    Product,
    by_numpy,
    candidates,
    column_candidates,
    store_by_columns,
)
from swarm.shards.shard import Shard
from swarm.shards.siblings import Siblings, join_siblings
from swarm.shards.step import Step, StepTensors
from tests.shard_lab import CPU, source_of

pytestmark = pytest.mark.slow


def fast(rows: int, columns: int = 24, bias: bool = False) -> FastLinear:
    torch.manual_seed(rows)
    layer = nn.Linear(columns, rows, bias=bias)
    make_fast(layer)
    assert isinstance(layer, FastLinear)
    return layer


@torch.inference_mode()
@pytest.mark.parametrize("by_columns", [None, *column_candidates()["few"]])
@pytest.mark.parametrize("bias", [True, False])
def test_every_sibling_finds_its_part(bias: bool, by_columns: Product | None) -> None:
    layers = [fast(rows, bias=bias) for rows in (8, 5, 7)]
    if by_columns is not None:
        for layer in layers:
            layer.weight.data = store_by_columns(layer.weight.data)
            layer.products = dict.fromkeys(layer.products, by_columns)
    one, several = torch.randn(1, 1, 24), torch.randn(1, 3, 24)
    expected = [[layer(states) for layer in layers] for states in (one, several)]
    Siblings(layers)
    for states, wanted in zip((one, several), expected, strict=True):
        for layer, value in zip(layers, wanted, strict=True):
            torch.testing.assert_close(layer(states), value)


@torch.inference_mode()
def test_whoever_is_called_alone_or_with_other_states_multiplies_alone() -> None:
    first, second = layers = [fast(8), fast(5)]
    states, other = torch.randn(1, 1, 24), torch.randn(1, 1, 24)
    expected = [second(states), second(other), first(other)]
    Siblings(layers)
    torch.testing.assert_close(second(states), expected[0])
    first(states)
    torch.testing.assert_close(second(other), expected[1])
    torch.testing.assert_close(first(other), expected[2])
    torch.testing.assert_close(second(states), expected[0])


def make_fast(stack: nn.Module) -> None:
    """As `use_fast_products` does with layers that are large enough to be worth it."""
    for module in stack.modules():
        if type(module) is nn.Linear:
            module.__class__ = FastLinear
            module.products = dict.fromkeys(candidates(), linear) | {"one": by_numpy}  # type: ignore[assignment]


@pytest.mark.parametrize("model_type", ["llama", "gpt_oss", "mixtral", "qwen2", "stablelm"])
def test_a_shard_with_joined_layers_computes_the_same(model_type: str) -> None:
    span = Span(0, 3)
    plain, joined = (
        Shard.load(source_of(model_type), span, dtype=torch.float32, device=CPU) for _ in range(2)
    )
    make_fast(joined.stack)
    assert join_siblings(joined) >= len(span)
    sessions = [shard.open(span, rollback=True) for shard in (plain, joined)]
    torch.manual_seed(0)
    for number, (start, tokens) in enumerate([(0, 5), (5, 1), (6, 1), (3, 1), (4, 2)]):
        states = StepTensors(torch.randn(1, tokens, plain.hidden_size))
        outputs = [session.apply(Step(number, start, states)).hidden for session in sessions]
        torch.testing.assert_close(outputs[1], outputs[0], atol=1e-5, rtol=1e-5)
