"""Models that are built without memory for their weights, and without torch's Python."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torch import Tensor, nn

from swarm.shards.meta_build import on_meta, strip


class Rotary(nn.Module):
    """What constructors do: ranges, numbers made of them, and weights."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 3)
        self.embedding = nn.Embedding(10, 4)
        steps = torch.arange(0, 8, 2)
        self.decay = nn.Parameter(torch.log(1.0 + steps), requires_grad=False)
        self.decay.kind = "slow"  # type: ignore[attr-defined]
        self.register_buffer("frequencies", 1.0 / (10000.0 ** (steps.float() / 8)))
        self.register_buffer("mixed", torch.cat([torch.ones(4), steps]) * torch.zeros(8))
        self.first = float(steps[1])


def build() -> Rotary:
    with on_meta():
        return Rotary()


def test_weights_have_no_memory_and_ranges_have_numbers() -> None:
    model = build()
    assert model.linear.weight.is_meta
    assert model.embedding.weight.is_meta
    assert model.first == 2.0
    assert torch.allclose(model.get_buffer("frequencies"), 1.0 / (10000.0 ** (torch.arange(0, 8, 2) / 8)))
    mixed = model.get_buffer("mixed")
    assert mixed.is_meta
    assert mixed.shape == (8,)


def test_nothing_but_shapes_is_left_of_a_stripped_model() -> None:
    model = build()
    strip(model)
    tensors: list[Tensor] = [*model.parameters(), *model.buffers()]
    assert all(tensor.is_meta for tensor in tensors)
    assert len(tensors) == 6
    assert model.decay.kind == "slow"  # type: ignore[attr-defined]
    assert not model.decay.requires_grad
    assert {name for name, _ in model.named_parameters()} == {
        "linear.weight",
        "linear.bias",
        "embedding.weight",
        "decay",
    }


def test_what_has_memory_is_initialised_as_ever() -> None:
    with on_meta():
        weight = torch.empty(3, 3, device="cpu")
        nn.init.constant_(weight, 7.0)
    assert torch.equal(weight, torch.full((3, 3), 7.0))


@pytest.mark.slow
def test_a_client_s_model_is_built_without_torch_s_compiler() -> None:
    """In a process of its own: this one has it already."""
    script = (
        "import sys, swarm\n"
        "from swarm.core.late_imports import late_imports\n"
        "with late_imports():\n"
        "    from swarm.core.config import ModelConfig\n"
        "    from swarm.shards.source import ModelSource\n"
        "    from swarm.shards.truncate import meta_model\n"
        "source = ModelSource.open(ModelConfig('demo'))\n"
        "model = meta_model(*source.causal_class())\n"
        "print(all(p.is_meta for p in model.parameters()), "
        "[name for name in ('sympy', 'torch._dynamo') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "True []"
