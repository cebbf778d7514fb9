"""Checkpoint files in a folder, and the choice between a folder and the hub."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from swarm.core.config import ModelConfig
from swarm.core.errors import ModelError
from swarm.shards.model_uid import local_fingerprint


class CheckpointFiles(Protocol):
    """The files of one checkpoint, wherever they are."""

    @property
    def folder(self) -> Path:
        """Where the configuration and tokenizer files are."""

    def names(self) -> list[str]:
        """All files of the checkpoint."""

    def fetch(self, name: str) -> Path:
        """The local path of a file, downloading it if necessary. Raises ModelError."""

    def fingerprint(self, weight_files: list[str]) -> list[str]:
        """What identifies the contents of the weight files."""


class FolderFiles:
    """The files of a local folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def names(self) -> list[str]:
        """All files of the folder."""
        return sorted(path.name for path in self.folder.iterdir() if path.is_file())

    def fetch(self, name: str) -> Path:
        """The path of a file.

        Raises:
            ModelError: if it does not exist.
        """
        path = self.folder / name
        if not path.is_file():
            raise ModelError(f"{self.folder} has no {name}: not a checkpoint in Hugging Face format")
        return path

    def fingerprint(self, weight_files: list[str]) -> list[str]:
        """Sizes, headers and samples of the weight files."""
        return [local_fingerprint(self.fetch(name)) for name in weight_files]


def find_files(config: ModelConfig) -> CheckpointFiles:
    """The built-in model, an existing folder, or a repository of the hub.

    Raises:
        ModelError: if the name is none of them.
    """
    if config.name == "demo":
        from swarm.builtin import demo_path

        return FolderFiles(Path(demo_path()))
    folder = Path(config.name).expanduser()
    if config.name and folder.is_dir():
        return FolderFiles(folder)
    from swarm.shards.hub import HubFiles, is_repository_name

    if not is_repository_name(config.name):
        raise ModelError(f"{config.name or repr('')} is neither a folder nor a repository name of the hub")
    return HubFiles.open(config)
