"""Checkpoint files on the Hugging Face hub: only those that are needed, resumable, pinned to one commit."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

from huggingface_hub import HfApi, hf_hub_download, try_to_load_from_cache
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from swarm.core.config import ModelConfig
from swarm.core.errors import ModelError
from swarm.shards.model_uid import cached_hash

# what a tokenizer or generate() reads besides the configuration; fetched when the repository has them
_SMALL_FILES = (
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "chat_template.jinja",
)
# the root error of the HTTP library that huggingface_hub uses, which has changed over its versions
_HTTPError: type[Exception] = next(base for base in HfHubHTTPError.__mro__ if base.__name__ == "HTTPError")
_NAME = re.compile(r"(?![.-])[\w.-]+(/(?![.-])[\w.-]+)?")


def is_repository_name(name: str) -> bool:
    """Whether `name` could be a hub id: `owner/name` or `name`."""
    return _NAME.fullmatch(name) is not None


@contextlib.contextmanager
def asking_hub(config: ModelConfig) -> Iterator[None]:
    """Map what huggingface_hub raises to `ModelError`."""
    name = config.name
    try:
        yield
    except GatedRepoError as exc:
        raise ModelError(f"{name} is gated: accept its terms on the hub and give a token") from exc
    except RevisionNotFoundError as exc:
        raise ModelError(f"{name} has no revision {config.revision!r} on the hub") from exc
    except RepositoryNotFoundError as exc:
        raise ModelError(
            f"{name} is neither a local folder nor a model on the hub (or it needs a token)"
        ) from exc
    except LocalEntryNotFoundError as exc:
        raise ModelError(f"the hub cannot be reached and {name} is not in the local cache") from exc
    except EntryNotFoundError as exc:
        raise ModelError(f"{name} lacks a file on the hub: {_first_line(exc)}") from exc
    except HFValidationError as exc:
        raise ModelError(f"{name} is not a valid model name: {_first_line(exc)}") from exc
    except HfHubHTTPError as exc:
        raise ModelError(f"the hub does not serve {name}: {_first_line(exc)}") from exc
    except (_HTTPError, OfflineModeIsEnabled) as exc:
        raise HubUnreachable(
            f"{name} is no folder here, and the hub cannot be reached for it: {_first_line(exc)}"
        ) from exc
    except OSError as exc:
        raise ModelError(f"the files of {name} cannot be stored: {_first_line(exc)}") from exc


class HubUnreachable(ModelError):
    """No answer at all: what the cache has may still do."""


class HubFiles:
    """One revision of a repository; files come into huggingface_hub's own cache when they are asked for."""

    def __init__(
        self, config: ModelConfig, hashes: dict[str, str], commit: str, endpoint: str | None
    ) -> None:
        self._config = config
        self._hashes = hashes
        self._commit = commit
        self._endpoint = endpoint
        self.downloaded: list[str] = []

    @classmethod
    def open(cls, config: ModelConfig, endpoint: str | None = None) -> HubFiles:
        """Ask the hub for the list of files; without a network, take what the cache has.

        Raises:
            ModelError: if the repository does not exist, is closed to this user, or cannot be reached.
        """
        try:
            with asking_hub(config):
                api = HfApi(endpoint=endpoint, token=config.token)
                info = api.model_info(config.name, revision=config.revision, files_metadata=True, timeout=20)
        except HubUnreachable:
            cached = _from_cache(config)
            if cached is None:
                raise
            return cls(config, *cached, endpoint)
        hashes = {}
        for entry in info.siblings or []:
            content = entry.lfs.sha256 if entry.lfs is not None else entry.blob_id
            hashes[entry.rfilename] = content or ""
        return cls(config, hashes, info.sha or config.revision or "main", endpoint)

    @cached_property
    def folder(self) -> Path:
        """The snapshot in the cache, with configuration and tokenizer."""
        for name in _SMALL_FILES:
            if name in self._hashes:
                self.fetch(name)
        return self.fetch("config.json").parent

    def names(self) -> list[str]:
        """All files of the revision."""
        return sorted(self._hashes)

    def fetch(self, name: str) -> Path:
        """The local path of a file; downloads it, with a progress bar, unless the cache has it.

        Raises:
            ModelError: if that fails; a later attempt resumes.
        """
        if name not in self._hashes:
            raise ModelError(f"{self._config.name} has no {name} on the hub")
        with asking_hub(self._config):
            path = hf_hub_download(
                self._config.name,
                name,
                revision=self._commit,
                token=self._config.token,
                cache_dir=self._config.cache_dir,
                endpoint=self._endpoint,
            )
        self.downloaded.append(name)
        return Path(path)

    def fingerprint(self, weight_files: list[str]) -> list[str]:
        """The hub's content hashes: nothing is downloaded for them."""
        return [self._hashes[name] for name in weight_files]


def _from_cache(config: ModelConfig) -> tuple[dict[str, str], str] | None:
    """Hashes and commit of the revision's files that an earlier download left in the cache."""
    found = try_to_load_from_cache(
        config.name, "config.json", cache_dir=config.cache_dir, revision=config.revision or "main"
    )
    if not isinstance(found, str):
        return None
    snapshot = Path(found).parent
    files = {path.name: cached_hash(path) or "" for path in snapshot.iterdir() if path.is_file()}
    absent = _indexed_files(snapshot) - files.keys()
    if absent:
        raise ModelError(
            f"the hub cannot be reached, and the cache has not all of {config.name} ({min(absent)} is missing)"
        )
    return files, snapshot.name


def _indexed_files(snapshot: Path) -> set[str]:
    """The weight files that the snapshot's index names; its identity takes the hashes of all of them."""
    path = snapshot / "model.safetensors.index.json"
    return set(json.loads(path.read_text())["weight_map"].values()) if path.is_file() else set()


def _first_line(exc: BaseException) -> str:
    lines = str(exc).strip().splitlines()
    return lines[0] if lines else type(exc).__name__
