"""Who may use the device: one at a time. Everything that touches the model runs here, one piece after another.

Work runs in a thread of its own, so that the event loop goes on meanwhile. What takes hardly longer than the way to
that thread and back may run in the event loop, while the thread has nothing to do.
"""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Callable
from typing import Any, TypeVar

Result = TypeVar("Result")
LONGEST_END_S = 1.0
Done = Callable[[Any, BaseException | None], None]


class Executor:
    """Runs functions on its own thread and hands their results back to the event loop that asked."""

    def __init__(self, name: str = "swarm-device") -> None:
        self._work: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._loop, name=name, daemon=True)
        self._under_way = 0  # as the event loop knows it
        self._thread.start()

    @property
    def is_idle(self) -> bool:
        """Whether the thread has no work, and none whose `done` is still to be called."""
        return self._under_way == 0

    def submit(self, function: Callable[[], object], done: Done) -> None:
        """Queue `function`; `done(result, error)` is called on the running event loop."""
        loop = asyncio.get_running_loop()
        self._under_way += 1

        def finish(result: object, error: BaseException | None) -> None:
            self._under_way -= 1
            done(result, error)

        self._work.put(lambda: _call(loop, finish, *_outcome(function)))

    def run_here(self, function: Callable[[], object], done: Done) -> None:
        """Run `function` in the calling thread, which is the event loop's; the device has to be idle."""
        assert self.is_idle, "the device is in use"
        done(*_outcome(function))

    def run(self, function: Callable[[], Result]) -> asyncio.Future[Result]:
        """Queue `function`; the future belongs to the running event loop."""
        future: asyncio.Future[Result] = asyncio.get_running_loop().create_future()

        def settle(result: Result, error: BaseException | None) -> None:
            if future.cancelled():
                return
            if error is not None:
                future.set_exception(error)
            else:
                future.set_result(result)

        self.submit(function, settle)
        return future

    def stop(self) -> None:
        """End the thread after the work it has, and wait for that, but not for work that takes long.

        A thread that still computes when the interpreter ends aborts the process.
        """
        self._work.put(None)
        self._thread.join(LONGEST_END_S)

    def _loop(self) -> None:
        while (work := self._work.get()) is not None:
            work()


def _outcome(function: Callable[[], object]) -> tuple[object, BaseException | None]:
    try:
        return function(), None
    except BaseException as raised:
        return None, raised


def _call(loop: asyncio.AbstractEventLoop, done: Done, result: object, error: BaseException | None) -> None:
    try:
        loop.call_soon_threadsafe(done, result, error)
    except RuntimeError:  # the loop was closed while the device was busy: nobody waits any more
        return
