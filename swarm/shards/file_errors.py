"""What goes wrong with the files of a checkpoint, in our words."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from safetensors import SafetensorError

from swarm.core.errors import ModelError
from swarm.shards.out_of_memory import is_out_of_memory


@contextlib.contextmanager
def reading(path: Path) -> Iterator[None]:
    """Map what safetensors and the file system raise to `ModelError`."""
    try:
        yield
    except FileNotFoundError as exc:
        raise ModelError(f"the checkpoint names {path.name}, but {path} does not exist") from exc
    except (SafetensorError, OSError, RuntimeError, MemoryError) as exc:
        if is_out_of_memory(exc):
            raise ModelError(
                f"{path} cannot be read, memory does not suffice: is there a limit on this process (ulimit -v)?"
            ) from exc
        if isinstance(exc, RuntimeError):
            raise
        raise ModelError(f"{path} is damaged or truncated; fetch it again ({exc})") from exc
