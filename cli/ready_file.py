"""The file that says that a node serves: checked and cleared before the node starts."""

from __future__ import annotations

import os
from pathlib import Path

from swarm.core.errors import ConfigError


def clear_ready_file(path: Path | None) -> None:
    """Remove what an earlier run left, so that the file's presence means that this one serves.

    Raises:
        ConfigError: the file could not be written later.
    """
    if path is None:
        return
    folder = path.absolute().parent
    if path.is_dir() or not folder.is_dir() or not os.access(folder, os.W_OK):
        raise ConfigError(f"--ready-file {path}: give a file in an existing folder that can be written")
    path.unlink(missing_ok=True)
