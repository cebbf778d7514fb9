"""The one thread that owns the device. Everything that touches the model runs here, one piece after another."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Callable
from typing import Any, TypeVar

Result = TypeVar("Result")
Done = Callable[[Any, BaseException | None], None]


class Executor:
    """Runs functions on its own thread and hands their results back to the event loop that asked."""

    def __init__(self, name: str = "swarm-device") -> None:
        self._work: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._loop, name=name, daemon=True)
        self._thread.start()

    def submit(self, function: Callable[[], object], done: Done) -> None:
        """Queue `function`; `done(result, error)` is called on the running event loop."""
        loop = asyncio.get_running_loop()

        def work() -> None:
            result, error = None, None
            try:
                result = function()
            except BaseException as raised:
                error = raised
            _call(loop, done, result, error)

        self._work.put(work)

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
        """End the thread after the work it has; does not wait for it."""
        self._work.put(None)

    def _loop(self) -> None:
        while (work := self._work.get()) is not None:
            work()


def _call(loop: asyncio.AbstractEventLoop, done: Done, result: object, error: BaseException | None) -> None:
    try:
        loop.call_soon_threadsafe(done, result, error)
    except RuntimeError:  # the loop was closed while the device was busy: nobody waits any more
        return
