"""This program's folders in the user's home, where the XDG base directory specification puts them."""

from __future__ import annotations

import os
from pathlib import Path


def config_folder() -> Path:
    """What must last, such as identities: `swarm` in $XDG_CONFIG_HOME, else in ~/.config."""
    return _folder("XDG_CONFIG_HOME", "~/.config")


def state_folder() -> Path:
    """What the user did, such as a history: `swarm` in $XDG_STATE_HOME, else in ~/.local/state."""
    return _folder("XDG_STATE_HOME", "~/.local/state")


def cache_folder() -> Path:
    """What can be made again: `swarm` in $XDG_CACHE_HOME, else in ~/.cache."""
    return _folder("XDG_CACHE_HOME", "~/.cache")


def _folder(variable: str, default: str) -> Path:
    return Path(os.environ.get(variable) or default).expanduser() / "swarm"
