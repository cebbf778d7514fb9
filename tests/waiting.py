"""Waiting for facts: the only place in the tests that lets time pass."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

POLL_S = 0.01


def wait_for(condition: Callable[[], T | None], deadline_s: float, what: str) -> T:
    """Poll `condition` until it gives something true, and return that.

    Raises:
        AssertionError: naming `what`, if that does not happen within `deadline_s`.
    """
    end = time.monotonic() + deadline_s
    while not (found := condition()):
        if time.monotonic() > end:
            raise AssertionError(f"not within {deadline_s:g} s: {what}")
        time.sleep(POLL_S)
    return found
