"""How much memory the groups of this process leave it: containers, services and slices are limited by them.

A process is in a group of the unified hierarchy (version 2), of a memory hierarchy (version 1), or of both. Each group
lies in others up to the root, and every one of them may have a limit. A container often sees its own group as the root.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

ROOT = Path("/")


@dataclass(frozen=True, slots=True)
class _Version:
    """Where groups are mounted, and how their files are called. `cache` is what files were read into and can go."""

    folder: str
    limit: str
    used: str
    cache: str


_UNIFIED = _Version("sys/fs/cgroup", "memory.max", "memory.current", "inactive_file")
_MEMORY = _Version(
    "sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"
)


def free_bytes(root: Path = ROOT) -> int | None:
    """The least that any limit on the way from this process's groups to the root leaves; None without a limit.

    `root` is where `proc` and `sys` are.
    """
    found = [
        _left(folder, version) for version, group in _groups(root) for folder in _way(root, version, group)
    ]
    return min((left for left in found if left is not None), default=None)


def _groups(root: Path) -> Iterator[tuple[_Version, PurePosixPath]]:
    """The groups of this process: lines of `hierarchy:controllers:path`; the roots, should it not be told."""
    told = _text(root / "proc/self/cgroup")
    if not told:
        yield from ((version, PurePosixPath("/")) for version in (_UNIFIED, _MEMORY))
    for line in told.splitlines():
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if "memory" in controllers.split(","):
            yield _MEMORY, PurePosixPath(path)
        elif (number, controllers) == ("0", ""):
            yield _UNIFIED, PurePosixPath(path)


def _way(root: Path, version: _Version, group: PurePosixPath) -> Iterator[Path]:
    """The folders of a group and of those that it lies in; of a group that lies outside of what is seen, the root."""
    top, names = root / version.folder, [name for name in group.parts if name != "/"]
    if ".." in names:
        names = []
    return (top.joinpath(*names[:depth]) for depth in range(len(names), -1, -1))


def _left(folder: Path, version: _Version) -> int | None:
    """Bytes below this group's limit, with what only caches files counted as free; None if it has no limit."""
    limit, used = _number(folder / version.limit), _number(folder / version.used)
    if limit is None or used is None:
        return None
    return max(limit - max(used - _cached(folder, version), 0), 0)


def _cached(folder: Path, version: _Version) -> int:
    for line in _text(folder / "memory.stat").splitlines():
        name, _, value = line.partition(" ")
        if name == version.cache and value.isdecimal():
            return int(value)
    return 0


def _number(path: Path) -> int | None:
    """What stands in this file; None if there is none, or no number ("max")."""
    text = _text(path).strip()
    return int(text) if text.isdecimal() else None


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except (OSError, ValueError):  # other systems, other versions; names that no file can have
        return ""
