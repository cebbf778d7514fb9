"""Where a checkpoint comes from: the built-in model, a local folder, or the hub."""

from __future__ import annotations

import json
from functools import cached_property
from pathlib import Path

import torch
from safetensors import safe_open
from torch import nn
from transformers import AutoConfig, PretrainedConfig, PreTrainedModel

from swarm.core.config import ModelConfig, Precision
from swarm.core.errors import ModelError
from swarm.core.span import Span
from swarm.shards import stack
from swarm.shards.checkpoint import reading, weight_bytes
from swarm.shards.files import CheckpointFiles, find_files
from swarm.shards.model_uid import model_uid
from swarm.shards.truncate import meta_model

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
_PICKLES = (".bin", ".pt", ".pth", ".ckpt")
_DTYPES: dict[str, torch.dtype] = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}


class ModelSource:
    """One checkpoint: its configuration, its tensors' names, and its identity."""

    def __init__(self, name: str, files: CheckpointFiles) -> None:
        self.name = name
        self._files = files
        self.config = _read_config(name, files)
        self.weight_map = _read_weight_map(name, files)
        self.causal_class()  # unsupported architectures are refused here, before anything is loaded

    @classmethod
    def open(cls, config: ModelConfig) -> ModelSource:
        """`demo`, a local folder, or a hub id.

        Raises:
            ModelError: if there is no usable checkpoint.
        """
        return cls(config.name, find_files(config))

    @property
    def folder(self) -> Path:
        """The folder with the configuration and tokenizer files, for `AutoTokenizer` and the like."""
        return self._files.folder

    @property
    def short_name(self) -> str:
        """The name without the path of a local folder, of at most 256 characters: what is told to others."""
        return (self.folder.resolve().name if Path(self.name).is_dir() else self.name)[-256:]

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

    @cached_property
    def uid(self) -> str:
        """Identity of this exact checkpoint; see `model_uid`."""
        return model_uid(self.config_json, self._files.fingerprint(sorted(set(self.weight_map.values()))))

    @cached_property
    def config_json(self) -> dict[str, object]:
        """The configuration file as it is."""
        return _load_json(self._files.fetch("config.json"))

    def causal_class(self) -> tuple[type[PreTrainedModel], PretrainedConfig]:
        """The transformers class of the model and the configuration that class takes."""
        return stack.causal_class(self.config)

    def file(self, name: str) -> Path:
        """Local path of a checkpoint file; downloads it if it is on the hub."""
        return self._files.fetch(name)

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


def _read_config(name: str, files: CheckpointFiles) -> PretrainedConfig:
    path = files.fetch("config.json")
    kind = _load_json(path).get("model_type", "unknown")
    try:
        config = AutoConfig.from_pretrained(path.parent, local_files_only=True)
    except (ValueError, OSError, KeyError, TypeError) as exc:
        raise ModelError(
            f"{name}: model type {kind!r} is not supported by the installed transformers"
        ) from exc
    assert isinstance(config, PretrainedConfig)
    return config


def _read_weight_map(name: str, files: CheckpointFiles) -> dict[str, str]:
    """Tensor name to file name, from the index or from the only file's header."""
    names = set(files.names())
    if INDEX in names:
        found = _load_json(files.fetch(INDEX)).get("weight_map")
        if not isinstance(found, dict) or not found:
            raise ModelError(f"{name}: {INDEX} has no weight_map")
        absent = sorted(set(found.values()) - names)
        if absent:
            raise ModelError(f"{name}: {INDEX} names {absent[0]}, which does not exist")
        return {str(key): str(file) for key, file in found.items()}
    if SINGLE in names:
        path = files.fetch(SINGLE)
        with reading(path), safe_open(path, "pt") as handle:
            return dict.fromkeys(handle.keys(), SINGLE)
    pickles = sorted(file for file in names if file.endswith(_PICKLES))
    if pickles:
        raise ModelError(
            f"{name} has only pickled weights ({pickles[0]}) and only safetensors are read; convert it: load it with "
            "transformers and call model.save_pretrained(NEW_FOLDER)"
        )
    raise ModelError(f"{name} has no {SINGLE} and no {INDEX}")


def _load_json(path: Path) -> dict[str, object]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as exc:
        raise ModelError(f"{path} cannot be read as JSON: {exc}") from exc
    if not isinstance(found, dict):
        raise ModelError(f"{path} does not hold a JSON object")
    return found
