"""A checkpoint as transformers understands it: its configuration, its class, and the sizes that follow."""

from __future__ import annotations

from functools import cached_property

import torch
from torch import nn
from transformers import AutoConfig, PretrainedConfig, PreTrainedModel

from swarm.core.config import Precision
from swarm.core.errors import ModelError
from swarm.core.span import Span
from swarm.shards import stack
from swarm.shards.checkpoint import weight_bytes
from swarm.shards.checkpoint_index import CheckpointIndex
from swarm.shards.files import CheckpointFiles
from swarm.shards.truncate import meta_model

_DTYPES: dict[str, torch.dtype] = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}


class ModelSource(CheckpointIndex):
    """One checkpoint of an architecture that transformers knows, and its configuration."""

    def __init__(self, name: str, files: CheckpointFiles) -> None:
        super().__init__(name, files)
        self.config = self._read_config()
        _ = (
            self.weight_map
        )  # missing files and unsupported architectures are refused here, before anything is loaded
        self.causal_class()

    def _read_config(self) -> PretrainedConfig:
        kind = self.config_json.get("model_type", "unknown")
        try:
            config = AutoConfig.from_pretrained(self.file("config.json").parent, local_files_only=True)
        except (ValueError, OSError, KeyError, TypeError) as exc:
            raise ModelError(
                f"{self.name}: model type {kind!r} is not supported by the installed transformers"
            ) from exc
        assert isinstance(config, PretrainedConfig)
        return config

    @property
    def n_layers(self) -> int:
        """How many decoder layers the model has."""
        text = stack.text_config(self.config)
        if getattr(text, "num_layers", text.num_hidden_layers) != text.num_hidden_layers:
            return len(
                self._layer_sizes
            )  # several attentions per layer: the number is counted from the class
        return stack.layer_count(self.config)

    @property
    def inseparable(self) -> Span | None:
        """Layers that only one peer can serve, because they share keys and values; None for most models."""
        return stack.inseparable_layers(self.config)

    def causal_class(self) -> tuple[type[PreTrainedModel], PretrainedConfig]:
        """The transformers class of the model and the configuration that class takes."""
        return stack.causal_class(self.config)

    def dtype(self, precision: Precision) -> torch.dtype:
        """The dtype to load in; `auto` is what the checkpoint says, float32 if it says nothing usable."""
        if precision != "auto":
            return _DTYPES[precision]
        named = stack.text_config(self.config).dtype or self.config.dtype
        return named if isinstance(named, torch.dtype) and named in _DTYPES.values() else torch.float32

    def layer_bytes(self, span: Span, dtype: torch.dtype | None = None) -> int:
        """Memory of the weights of layers `[span.start, span.end)` in `dtype` (default: the checkpoint's own)."""
        used = dtype or self.dtype("auto")
        return sum(self._layer_sizes[span.start : span.end]) * used.itemsize

    @cached_property
    def _layer_sizes(self) -> list[int]:
        model = meta_model(*self.causal_class())
        owner, attribute = stack.stack_of(model)
        layers = getattr(owner, attribute)
        assert isinstance(layers, nn.ModuleList)
        return [sum(parameter.numel() for parameter in layer.parameters()) for layer in layers]

    def total_bytes(self, dtype: torch.dtype | None = None) -> int:
        """Memory of all weights in `dtype` (default: the checkpoint's own)."""
        return weight_bytes(meta_model(*self.causal_class()), dtype or self.dtype("auto"))
