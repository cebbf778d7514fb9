"""Sizes in a recorded program are constants where they never change, and only there."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from swarm.core.span import Span
from swarm.shards.fixed_sizes import with_fixed_sizes
from swarm.shards.recording import record
from swarm.shards.shard import Shard
from tests.shard_lab import CPU, source_of

Function = Callable[[Tensor, Tensor], Tensor]


def fixed(function: Function) -> Any:
    """The program of a function of a hidden state and a past, from pasts of three and of five tokens."""
    traces = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for length in (3, 5):
            traces.append(torch.jit.trace(function, (torch.ones(1, 4), torch.ones(1, length))))  # type: ignore[no-untyped-call]
    return with_fixed_sizes(*traces)


def kinds(program: Any) -> list[str]:
    return [node.kind() for node in program.graph.nodes()]


def test_what_depends_on_the_length_of_the_past_is_still_computed() -> None:
    def function(hidden: Tensor, past: Tensor) -> Tensor:
        return hidden * past.shape[1] + hidden.shape[1] // 2

    program = fixed(function)
    assert kinds(program).count("aten::size") == 1
    assert "aten::floor_divide" not in kinds(program)
    for length in (1, 5, 9):
        hidden, past = torch.randn(1, 4), torch.ones(1, length)
        assert torch.equal(program(hidden, past), function(hidden, past))


def test_another_way_of_computing_for_longer_pasts_is_refused() -> None:
    with pytest.raises(RuntimeError, match="how long the past is"):
        fixed(lambda hidden, past: hidden * 2 if past.shape[1] > 4 else (hidden + 1).relu())


@pytest.mark.slow
def test_the_program_of_a_layer_computes_no_sizes() -> None:
    shard = Shard.load(source_of("llama"), Span(1, 3), dtype=torch.float32, device=CPU)
    program: Any = record(shard, shard.span).program
    found = kinds(program.function)
    assert not {"prim::NumToTensor", "aten::size", "aten::floor_divide", "aten::Int"} & set(found)
    assert found.count("aten::scaled_dot_product_attention") == 2
