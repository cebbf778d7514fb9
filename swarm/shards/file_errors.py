"""What goes wrong with the files of a checkpoint, in our words."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from safetensors import SafetensorError

from swarm.core.errors import ModelError


@contextlib.contextmanager
def reading(path: Path) -> Iterator[None]:
    """Map what safetensors and the file system raise to `ModelError`."""
    try:
        yield
    except FileNotFoundError as exc:
        raise ModelError(f"the checkpoint names {path.name}, but {path} does not exist") from exc
    except (SafetensorError, OSError) as exc:
        raise ModelError(f"{path} is damaged or truncated; fetch it again ({exc})") from exc
