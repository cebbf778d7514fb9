"""What transformers lists of its models, kept in the user's cache folder from one process to the next.

`import transformers` reads 2,500 files to list which of them defines which name, which takes a third of a second or
more. The listing is kept for as long as none of these files has changed. It is an aid: where the folder cannot be
used, the files are read as ever.
"""

from __future__ import annotations

import contextlib
import os
import sys
from functools import lru_cache, partial, wraps
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from swarm.core.user_folders import cache_folder, make_private

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

MOST_LISTINGS = 8
_HOME = "transformers.utils.import_utils"
_NAME = "define_import_structure"

Listing = dict[frozenset[str], dict[str, set[str]]]
"""By the packages that they need: modules, and the names that these export."""


def kept(define: Callable[..., Listing], own_file: str) -> Callable[..., Listing]:
    """`define(folder, prefix)` of transformers, whose code is in `own_file`, with a memory.

    Without a prefix it lists the few files of one model, which is quick.
    """

    @lru_cache
    @wraps(define)
    def define_kept(module_path: str | Path, prefix: str | None = None) -> Listing:
        folder = None if prefix is None else _folder()
        if prefix is None or folder is None:
            return define(module_path, prefix)
        made_of = _digest([prefix, *_stamps(os.fspath(module_path)), _stamp(own_file, os.stat(own_file))])
        path = folder / f"{_digest([os.fspath(module_path), prefix])}.json"
        found = _read(path, made_of)
        if found is None:
            found = define(module_path, prefix)
            with contextlib.suppress(OSError):
                _write(path, made_of, found)
        return found

    return define_kept


def _folder() -> Path | None:
    """Where listings are kept; None for a user without a home."""
    try:
        return cache_folder() / "listings"
    except RuntimeError:
        return None


def _stamps(folder: str) -> Iterator[str]:
    """One for each file of Python in it."""
    with os.scandir(folder) as entries:
        for entry in sorted(entries, key=lambda entry: entry.name):
            if entry.name.endswith(".py"):
                yield _stamp(entry.path, entry.stat())
            elif entry.name != "__pycache__" and entry.is_dir():
                yield from _stamps(entry.path)


def _stamp(path: str, status: os.stat_result) -> str:
    return f"{path} {status.st_size} {status.st_mtime_ns}"


def _digest(parts: Sequence[str]) -> str:
    import hashlib

    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _read(path: Path, made_of: str) -> Listing | None:
    import json

    try:
        make_private(path.parent)
        found = json.loads(path.read_bytes())
        if found["made_of"] != made_of:
            return None
        return {
            frozenset(needs): {module: set(names) for module, names in modules.items()}
            for needs, modules in found["listing"]
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _write(path: Path, made_of: str, listing: Listing) -> None:
    """At its place only once it is whole: other processes may look for it."""
    import json

    make_private(path.parent)
    pairs = [
        [sorted(needs), {module: sorted(names) for module, names in modules.items()}]
        for needs, modules in listing.items()
    ]
    unfinished = path.with_suffix(f".{os.getpid()}")
    unfinished.write_text(json.dumps({"made_of": made_of, "listing": pairs}))
    unfinished.replace(path)
    files = sorted(path.parent.glob("*.json"), key=lambda file: file.stat().st_mtime)
    for file in files[:-MOST_LISTINGS]:
        file.unlink(missing_ok=True)


class ListingFinder:
    """Finds the module of transformers that makes listings, with a loader that gives it the memory."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != _HOME:
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is not None and spec.loader is not None:
            loader: Any = spec.loader
            loader.exec_module = partial(_exec, loader.exec_module)
        return spec


def _exec(real: Callable[[ModuleType], None], module: ModuleType) -> None:
    real(module)
    define = getattr(module, _NAME, None)
    if define is not None and module.__file__ is not None:
        setattr(module, _NAME, kept(define, module.__file__))


def install() -> None:
    """Put the finder in front; idempotent."""
    if not any(isinstance(finder, ListingFinder) for finder in sys.meta_path):
        finder: Any = ListingFinder()
        sys.meta_path.insert(0, finder)
