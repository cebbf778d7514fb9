"""An event loop whose clock jumps to the next timer as soon as nothing else is left to do: waiting costs nothing."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Coroutine, Mapping
from typing import Any, TypeVar

T = TypeVar("T")
START_S = 1000.0
LONGEST_S = 3600.0


class _JumpingSelector(selectors.SelectSelector):
    """Never waits: what it was to wait is added to the clock."""

    def __init__(self) -> None:
        super().__init__()
        self.now_s = START_S

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if not ready and timeout is None:
            raise AssertionError("nothing is left that could ever happen: the test waits for ever")
        if not ready and timeout is not None and timeout > 0:
            self.now_s += timeout
            assert self.now_s < START_S + LONGEST_S, "an hour went by: the test waits for ever"
        return ready


class VirtualLoop(asyncio.SelectorEventLoop):
    """For tests in one thread that do no real input or output."""

    def __init__(self) -> None:
        self._jumping = _JumpingSelector()
        super().__init__(self._jumping)

    def time(self) -> float:
        return self._jumping.now_s


def run(work: Coroutine[Any, Any, T]) -> T:
    """`asyncio.run` in virtual time; errors that nobody handled fail the test."""
    unhandled: list[str] = []

    def note(loop: asyncio.AbstractEventLoop, context: Mapping[str, Any]) -> None:
        unhandled.append(f"{context.get('message')}: {context.get('exception')!r}")

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runner.get_loop().set_exception_handler(note)
        result = runner.run(work)
    assert not unhandled, unhandled
    return result
