"""The random checkpoints that benchmarks run on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Size:
    """Sizes of a Llama with random weights, in float32."""

    hidden: int
    layers: int
    heads: int
    kv_heads: int
    intermediate: int
    vocabulary: int


SIZES = {
    "tiny": Size(hidden=32, layers=4, heads=2, kv_heads=2, intermediate=64, vocabulary=200),
    "A": Size(hidden=256, layers=8, heads=4, kv_heads=4, intermediate=704, vocabulary=1000),
    "B": Size(hidden=1024, layers=16, heads=16, kv_heads=8, intermediate=2816, vocabulary=8000),
}


def save(size: Size, folder: Path) -> Path:
    """Write the checkpoint of this size, the same at every call, and return its folder."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=size.hidden,
        num_hidden_layers=size.layers,
        num_attention_heads=size.heads,
        num_key_value_heads=size.kv_heads,
        intermediate_size=size.intermediate,
        vocab_size=size.vocabulary,
        max_position_embeddings=16384,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder
