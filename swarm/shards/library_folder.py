"""Compiled libraries, kept in a folder of the user: who starts again need not compile again."""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import logging
import tempfile
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

from swarm.core.user_folders import make_private

logger = logging.getLogger(__name__)
MOST_LIBRARIES = 64


class LibraryFolder:
    """A library's name in the folder says what it is made of.

    It is an aid: where `path` is None or cannot be used, which is logged, everything is made anew.
    """

    def __init__(self, path: Path | None = None) -> None:
        self.path = path

    def library(self, made_of: Sequence[str], make: Callable[[Path], None]) -> ctypes.CDLL:
        """The library that `make` writes to the path that it gets, or has written in some process from the same parts.

        Raises:
            OSError: if it cannot be loaded. What `make` raises passes through.
        """
        if self.path is not None:
            try:
                make_private(self.path)
                return _kept(self.path, made_of, make)
            except OSError as error:
                logger.info("compiled functions are not kept: %s", error)
                self.path = None
        with tempfile.TemporaryDirectory(prefix="swarm-") as passing:
            return _made(make, Path(passing) / "library.so")


def _kept(folder: Path, made_of: Sequence[str], make: Callable[[Path], None]) -> ctypes.CDLL:
    path = folder / f"{_digest(made_of)}.so"
    try:
        library = ctypes.CDLL(str(path))
    except OSError:  # not there yet, or broken
        library = _made(make, path)
        _drop_oldest(folder)
    with contextlib.suppress(OSError):  # a folder may be read-only
        path.touch()
    return library


def _digest(parts: Sequence[str]) -> str:
    found = hashlib.sha256()
    for part in parts:
        found.update(f"{len(part)} {part}".encode())
    return found.hexdigest()


def _made(make: Callable[[Path], None], path: Path) -> ctypes.CDLL:
    """At its place only once it is whole: other processes may look for it."""
    unfinished = path.with_suffix(f".{threading.get_native_id()}")
    make(unfinished)
    unfinished.replace(path)
    return ctypes.CDLL(str(path))


def _drop_oldest(folder: Path) -> None:
    """Of all files, those that were not used for longest; processes that have loaded them are not disturbed."""
    ages = []
    for path in folder.iterdir():
        try:
            ages.append((path.stat().st_mtime, path))
        except FileNotFoundError:  # another process drops, too
            continue
    for _, path in sorted(ages)[:-MOST_LIBRARIES]:
        path.unlink(missing_ok=True)
