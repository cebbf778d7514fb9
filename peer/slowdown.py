"""A device that is slower than it is, for tests: its work takes as many times as long as a file says at that moment."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from math import isfinite
from pathlib import Path
from typing import TypeVar

from swarm.core.errors import ConfigError
from swarm.peer.executor import Done, Executor

Result = TypeVar("Result")


class SlowedExecutor(Executor):
    """The device, held for a multiple of the time that each piece of work takes. Without the file nothing is slowed."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path

    def submit(self, function: Callable[[], object], done: Done) -> None:
        super().submit(partial(self._slowed, function), done)

    def run_here(self, function: Callable[[], object], done: Done) -> None:
        super().run_here(partial(self._slowed, function), done)

    def _slowed(self, function: Callable[[], Result]) -> Result:
        factor, began_s = slowdown(self._path), time.perf_counter()
        try:
            return function()
        finally:
            time.sleep((factor - 1.0) * (time.perf_counter() - began_s))


def slowdown(path: Path) -> float:
    """The factor that stands in a file; 1 if there is no file, or nothing in it.

    Raises:
        ConfigError: if it is no number of at least 1.
    """
    try:
        text = path.read_text(encoding="utf-8").strip()
        factor = float(text or 1.0)
    except FileNotFoundError:
        return 1.0
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} holds no factor by which to be slower: {error}") from error
    if not isfinite(factor) or factor < 1.0:
        raise ConfigError(f"{path} must hold a number of at least 1, not {text}")
    return factor
