"""This program's folders in the user's home, where the XDG base directory specification puts them."""

from __future__ import annotations

import os
from pathlib import Path

_OTHERS_MAY_WRITE = 0o022


def config_folder() -> Path:
    """What must last, such as identities: `swarm` in $XDG_CONFIG_HOME, else in ~/.config."""
    return _folder("XDG_CONFIG_HOME", "~/.config")


def state_folder() -> Path:
    """What the user did, such as a history: `swarm` in $XDG_STATE_HOME, else in ~/.local/state."""
    return _folder("XDG_STATE_HOME", "~/.local/state")


def cache_folder() -> Path:
    """What can be made again: `swarm` in $XDG_CACHE_HOME, else in ~/.cache."""
    return _folder("XDG_CACHE_HOME", "~/.cache")


def make_private(folder: Path) -> None:
    """Make a folder whose files this process can rely on.

    Raises:
        OSError: it cannot be made, or somebody else could put files there.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    status = folder.stat()
    if status.st_uid != os.geteuid() or status.st_mode & _OTHERS_MAY_WRITE:
        raise PermissionError(f"others may write to {folder}")


def _folder(variable: str, default: str) -> Path:
    return Path(os.environ.get(variable) or default).expanduser() / "swarm"
