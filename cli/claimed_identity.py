"""Which identity file a node of this machine uses, so that two running nodes never share one.

A running node holds a lock on its file, which ends with its process. The default is `identity` in the user's
configuration folder; while a running node uses that, `identity-2`, and so on, so that several peers of one machine
keep their own identities over restarts without any option.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

from swarm.core.errors import ConfigError
from swarm.core.user_folders import config_folder
from swarm.security.identity import Identity


@contextmanager
def claimed_identity(given: Path | None, stem: str = "identity") -> Iterator[Path]:
    """The path of an identity file, made if missing, that no other node uses while the context lasts.

    Raises:
        ConfigError: the given file is in use, or its folder cannot be written.
        NodeError: it is no identity file.
    """
    path, descriptor = _claim(given) if given is not None else _claim_default(stem)
    try:
        yield path
    finally:
        os.close(descriptor)


def _claim(path: Path) -> tuple[Path, int]:
    descriptor = _lock(path)
    if descriptor is None:
        raise ConfigError(f"--identity {path} is used by a running node: stop that, or give another file")
    return path, descriptor


def _claim_default(stem: str) -> tuple[Path, int]:
    for number in count(1):
        path = config_folder() / (stem if number == 1 else f"{stem}-{number}")
        descriptor = _lock(path)
        if descriptor is not None:
            return path, descriptor
    raise AssertionError("count() does not end")


def _lock(path: Path) -> int | None:
    """A descriptor that holds the lock of the file, or None while another process does."""
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        Identity.load_or_create(path)
        descriptor = os.open(path, os.O_RDONLY)
    except OSError as exc:
        raise ConfigError(f"--identity {path}: {exc.strerror}: give a file that can be written") from exc
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor
