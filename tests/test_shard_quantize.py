"""Quantized shards: smaller, close to the original, and refused with a reason where they cannot be."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from swarm.core.config import ModelConfig, Quantization
from swarm.core.errors import ConfigError, ModelError
from swarm.core.span import Span
from swarm.shards.shard import Shard
from swarm.shards.source import ModelSource
from tests.shard_lab import CPU, feed, hidden, source_of
from tests.zoo import save_tiny

pytestmark = pytest.mark.slow
WIDE = {"hidden_size": 128, "intermediate_size": 128, "head_dim": 32, "num_hidden_layers": 3}
CHANGES: dict[str, dict[str, Any]] = {
    "llama": WIDE,
    "gpt2": {"hidden_size": 128, "n_embd": 128, "n_inner": 128, "num_hidden_layers": 3, "n_layer": 3},
    "mixtral": WIDE,
    "gpt_oss": {**WIDE, "layer_types": ["full_attention", "sliding_attention", "full_attention"]},
}


def output(source: ModelSource, quantize: Quantization | None) -> tuple[torch.Tensor, Shard]:
    """What layers 1:3 make of a random state, and the shard."""
    shard = Shard.load(source, Span(1, 3), dtype=torch.float32, device=CPU, quantize=quantize)
    return feed(shard.open(Span(1, 3), rollback=False), 0, 0, hidden(7, width=128)).hidden, shard


@pytest.mark.parametrize("model_type", sorted(CHANGES))
def test_quantized_layers_are_smaller_and_close(model_type: str, tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes")
    folder = save_tiny(model_type, tmp_path, shard_size="1MB", **CHANGES[model_type])
    source = ModelSource.open(ModelConfig(str(folder)))
    exact, full = output(source, None)
    change = (exact - hidden(7, width=128)).norm()
    bounds: dict[Quantization, tuple[float, float]] = {"int8": (0.15, 0.4), "nf4": (0.6, 0.35)}
    for kind, (error, size) in bounds.items():
        found, small = output(source, kind)
        assert ((found - exact).norm() / change).item() < error
        assert small.weight_bytes < size * full.weight_bytes


def test_nf4_on_the_cpu_refuses_narrow_matrices_with_a_reason() -> None:
    pytest.importorskip("bitsandbytes")
    with pytest.raises(ModelError, match=r"divisible by 64, this model has 32: use --quantize int8"):
        Shard.load(source_of("llama"), Span(0, 1), dtype=torch.float32, device=CPU, quantize="nf4")


def test_without_bitsandbytes_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(ConfigError, match=r"pip install 'layerswarm\[quantize\]'"):
        Shard.load(source_of("llama"), Span(0, 1), dtype=torch.float32, device=CPU, quantize="int8")
