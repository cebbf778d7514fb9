"""Tiny random checkpoints of many architectures, made the same every time, in Hugging Face format."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

VOCABULARY = 160
LAYERS = 6

_SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "vocab_size_per_layer_input": VOCABULARY,
    "hidden_size": 32,
    "n_embd": 32,
    "d_model": 32,
    "word_embed_proj_dim": 32,
    "num_hidden_layers": LAYERS,
    "n_layer": LAYERS,
    "num_attention_heads": 4,
    "n_head": 4,
    "num_key_value_heads": 2,
    "num_kv_heads": 2,
    "head_dim": 8,
    "intermediate_size": 64,
    "ffn_hidden_size": 64,
    "ffn_dim": 64,
    "n_inner": 64,
    "moe_intermediate_size": 32,
    "shared_expert_intermediate_size": 32,
    "num_experts": 4,
    "num_local_experts": 4,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "n_group": 1,
    "topk_group": 1,
    "first_k_dense_replace": 2,
    "kv_lora_rank": 16,
    "q_lora_rank": 16,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 8,
    "v_head_dim": 8,
    "query_pre_attn_scalar": 8,
    "sliding_window": 6,
    "max_position_embeddings": 256,
    "n_positions": 256,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "mamba_d_ssm": 32,
    "mamba_n_heads": 4,
    "mamba_d_head": 8,
    "mamba_d_state": 8,
    "mamba_chunk_size": 8,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}

ARCHITECTURES: dict[str, dict[str, Any]] = {
    "llama": {},
    "mistral": {},
    "qwen2": {},
    "qwen3": {},
    "qwen3_moe": {},
    "mixtral": {},
    "gemma2": {},
    "gemma3_text": {"layer_types": ["sliding_attention", "sliding_attention", "full_attention"] * 2},
    "phi3": {},
    "gpt2": {},
    "bloom": {},
    "falcon": {"new_decoder_architecture": False, "alibi": False},
    "opt": {},
    "olmo2": {},
    "granite": {},
    "deepseek_v3": {"num_key_value_heads": 4},
    "gpt_oss": {},
    "smollm3": {},
    "glm4": {},
    "cohere2": {},
    "stablelm": {},
    "starcoder2": {},
    "qwen3_next": {},
    "falcon_h1": {},
}


# architectures beyond the list, each for something that no other one does
UNUSUAL: dict[str, dict[str, Any]] = {
    "bamba": {"mamba_n_heads": 8, "mamba_d_head": 8, "mamba_d_ssm": 64, "attn_layer_indices": [1, 4]},
    "deepseek_v4": {},
    "gemma3n_text": {
        "num_kv_shared_layers": 2,
        "layer_types": ["sliding_attention", "full_attention"] * 3,
        "hidden_size_per_layer_input": 8,
        "laurel_rank": 4,
        "activation_sparsity_pattern": [0.0] * LAYERS,
        "intermediate_size": [64] * LAYERS,
        "altup_num_inputs": 2,
    },
    "glm_moe_dsa": {"num_key_value_heads": 4},
    "inkling2_text": {},
    "lfm2": {"layer_types": ["conv", "full_attention", "conv"] * 2},
    "longcat_flash": {"num_layers": LAYERS, "num_key_value_heads": 4},
    "mamba2": {"num_heads": 8, "head_dim": 8, "expand": 2},
    "recurrent_gemma": {},
    "zamba2": {
        "mamba_n_heads": 8,
        "mamba_headdim": 8,
        "n_mamba_heads": 8,
        "layers_block_type": ["mamba", "hybrid", "mamba", "mamba", "hybrid", "mamba"],
        "num_key_value_heads": 4,
    },
}


def tiny_config(model_type: str, **changes: Any) -> Any:
    """The architecture's configuration class with tiny sizes in every field it has."""
    plain = AutoConfig.for_model(model_type)
    wanted = {**_SIZES, **(ARCHITECTURES | UNUSUAL).get(model_type, {}), **changes}
    known = {*plain.to_dict(), *plain.attribute_map} - _computed(type(plain))
    fields = {key: value for key, value in wanted.items() if key in changes or key in known}
    return AutoConfig.for_model(model_type, **fields)


def _computed(cls: type) -> set[str]:
    """Names that a configuration class derives from others."""
    return {name for name in _SIZES if isinstance(getattr(cls, name, None), property)}


def tiny_model(
    model_type: str, *, seed: int = 0, dtype: torch.dtype = torch.float32, **changes: Any
) -> PreTrainedModel:
    """A model with random weights, large enough in scale that its logits differ clearly."""
    torch.manual_seed(seed)
    auto: Any = AutoModelForCausalLM
    model: PreTrainedModel = auto.from_config(tiny_config(model_type, **changes)).to(dtype)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() >= 2:
                parameter.normal_(0.0, 0.12)
    assert model.generation_config is not None
    model.generation_config.eos_token_id = None
    model.train(False)
    return model


def save_tiny(
    model_type: str, folder: Path, *, shard_size: str = "40KB", seed: int = 0, **changes: Any
) -> Path:
    """Write a tiny checkpoint, in several files with an index, and return its folder."""
    with contextlib.redirect_stderr(io.StringIO()):
        tiny_model(model_type, seed=seed, **changes).save_pretrained(folder, max_shard_size=shard_size)
    return folder
