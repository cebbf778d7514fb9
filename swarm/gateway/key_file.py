"""The file of API keys: names, hashes and limits, never the keys themselves."""

from __future__ import annotations

import hashlib
import os
import secrets
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from swarm.core.errors import ConfigError

_PREFIX = "sk-swarm-"
_SECRET_BYTES = 32  # random, so that a plain hash cannot be searched


class KeyEntry(BaseModel):
    """One key: the SHA-256 of what its holder sends, and what it may do; None is no limit."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Annotated[str, Field(min_length=1, max_length=64)]
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
    requests_per_minute: Annotated[int, Field(gt=0)] | None = None
    concurrent: Annotated[int, Field(gt=0)] | None = None


class _Document(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    keys: tuple[KeyEntry, ...] = ()


def read_keys(path: Path) -> tuple[KeyEntry, ...]:
    """The keys in a file.

    Raises:
        ConfigError: it cannot be read, or is no such file.
    """
    try:
        return _Document.model_validate_json(path.read_bytes()).keys
    except OSError as exc:
        raise ConfigError(f"{path}: {exc.strerror}; `swarm gateway-key` makes one") from exc
    except ValidationError as exc:
        raise ConfigError(f"{path} is no file of API keys: `swarm gateway-key` makes one") from exc


def add_key(path: Path, name: str, requests_per_minute: int | None, concurrent: int | None) -> str:
    """Add a new key to the file, which is made if missing; returns what its holder sends.

    Raises:
        ConfigError: the name is taken, or the file cannot be read or written.
    """
    known = read_keys(path) if path.exists() else ()
    if name in {entry.name for entry in known}:
        raise ConfigError(f"{path} has a key called {name!r} already: give another name")
    secret = _PREFIX + secrets.token_urlsafe(_SECRET_BYTES)
    entry = KeyEntry(
        name=name,
        sha256=digest(secret),
        requests_per_minute=requests_per_minute,
        concurrent=concurrent,
    )
    _write(path, (*known, entry))
    return secret


def remove_key(path: Path, name: str) -> None:
    """Take a key out of the file.

    Raises:
        ConfigError: there is none of that name, or the file cannot be read or written.
    """
    known = read_keys(path)
    left = tuple(entry for entry in known if entry.name != name)
    if left == known:
        raise ConfigError(f"{path} has no key called {name!r}")
    _write(path, left)


def digest(secret: str) -> str:
    """What the file keeps of a key."""
    return hashlib.sha256(secret.encode("utf-8", "surrogateescape")).hexdigest()


def _write(path: Path, keys: tuple[KeyEntry, ...]) -> None:
    """In one atomic step, readable for its owner only."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    text = _Document(keys=keys).model_dump_json(indent=2, exclude_none=True) + "\n"
    try:
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
        os.replace(draft, path)
    except OSError as exc:
        raise ConfigError(f"{path}: {exc.strerror}: give a file that can be written") from exc
