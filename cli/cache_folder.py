"""Where this program keeps what it can do without."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path:
    """`swarm` in the user's folder for such files ($XDG_CACHE_HOME, else ~/.cache)."""
    home = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(home).expanduser() / "swarm"
