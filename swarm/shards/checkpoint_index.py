"""What a checkpoint says of itself in files that are read without torch and transformers."""

from __future__ import annotations

import json
from functools import cached_property
from pathlib import Path
from typing import Self

from safetensors import safe_open

from swarm.core.config import ModelConfig
from swarm.core.errors import ModelError
from swarm.shards.file_errors import reading
from swarm.shards.files import CheckpointFiles, find_files
from swarm.shards.model_uid import model_uid

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
_PICKLES = (".bin", ".pt", ".pth", ".ckpt")


class CheckpointIndex:
    """One checkpoint: its files, its tensors' names, and its identity."""

    def __init__(self, name: str, files: CheckpointFiles) -> None:
        self.name = name
        self.files = files

    @classmethod
    def open(cls, config: ModelConfig) -> Self:
        """`demo`, a local folder, or a hub id.

        Raises:
            ModelError: if there is no usable checkpoint.
        """
        return cls(config.name, find_files(config))

    @property
    def folder(self) -> Path:
        """The folder with the configuration and tokenizer files, for `AutoTokenizer` and the like."""
        return self.files.folder

    @property
    def short_name(self) -> str:
        """The name without the path of a local folder, of at most 256 characters: what is told to others."""
        return (self.folder.resolve().name if Path(self.name).is_dir() else self.name)[-256:]

    @cached_property
    def uid(self) -> str:
        """Identity of this exact checkpoint; see `model_uid`. Downloads no weights."""
        return model_uid(self.config_json, self.files.fingerprint(self.weight_files))

    @cached_property
    def config_json(self) -> dict[str, object]:
        """The configuration file as it is."""
        return _load_json(self.files.fetch("config.json"))

    @cached_property
    def weight_map(self) -> dict[str, str]:
        """Tensor name to file name, from the index or from the only file's header."""
        if self._index:
            return self._index
        [single] = self.weight_files
        path = self.files.fetch(single)
        with reading(path), safe_open(path, "np") as handle:
            return dict.fromkeys(handle.keys(), single)

    @cached_property
    def weight_files(self) -> list[str]:
        """The files that hold the tensors, in alphabetical order.

        Raises:
            ModelError: if there are none that can be read.
        """
        if self._index:
            return sorted(set(self._index.values()))
        names = set(self.files.names())
        if SINGLE in names:
            return [SINGLE]
        pickles = sorted(file for file in names if file.endswith(_PICKLES))
        if pickles:
            raise ModelError(
                f"{self.name} has only pickled weights ({pickles[0]}) and only safetensors are read; convert it: load "
                "it with transformers and call model.save_pretrained(NEW_FOLDER)"
            )
        raise ModelError(f"{self.name} has no {SINGLE} and no {INDEX}")

    @cached_property
    def _index(self) -> dict[str, str]:
        """The index of a checkpoint in several files; empty if there is none."""
        names = set(self.files.names())
        if INDEX not in names:
            return {}
        found = _load_json(self.files.fetch(INDEX)).get("weight_map")
        if not isinstance(found, dict) or not found:
            raise ModelError(f"{self.name}: {INDEX} has no weight_map")
        absent = sorted(set(found.values()) - names)
        if absent:
            raise ModelError(f"{self.name}: {INDEX} names {absent[0]}, which does not exist")
        return {str(key): str(file) for key, file in found.items()}

    def file(self, name: str) -> Path:
        """Local path of a checkpoint file; downloads it if it is on the hub."""
        return self.files.fetch(name)


def _load_json(path: Path) -> dict[str, object]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as exc:
        raise ModelError(f"{path} cannot be read as JSON: {exc}") from exc
    if not isinstance(found, dict):
        raise ModelError(f"{path} does not hold a JSON object")
    return found
