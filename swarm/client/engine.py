"""The client's event loop on a thread of its own, so that users need none: works in scripts, notebooks and threads."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import CancelledError, Future
from contextlib import suppress
from typing import Any, TypeVar

from swarm.core.errors import NodeError

Result = TypeVar("Result")
JOIN_TIMEOUT_S = 10.0
CLOSED = "this model is closed: load it again with SwarmModel.from_pretrained"


class Engine:
    """Runs coroutines for callers of any thread. The thread is a daemon: a script that ends does not wait for it."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop = asyncio.Event()
        self._background: set[asyncio.Task[Any]] = set()
        ready: Future[None] = Future()
        self._thread = threading.Thread(target=self._run, args=(ready,), name="swarm-client", daemon=True)
        self._thread.start()
        ready.result()

    def _run(self, ready: Future[None]) -> None:
        try:
            with asyncio.Runner(loop_factory=_loop_factory()) as runner:
                runner.run(self._main(ready))
        except BaseException as error:
            if ready.done():
                raise
            ready.set_exception(error)

    async def _main(self, ready: Future[None]) -> None:
        self._loop = asyncio.get_running_loop()
        ready.set_result(None)
        await self._stop.wait()
        self._loop = None

    def run(self, work: Coroutine[Any, Any, Result]) -> Result:
        """The result of `work`, waited for; an interrupt (Ctrl-C) cancels it.

        Raises:
            NodeError: if the engine is closed.
        """
        return self.wait(self.begin(work))

    def begin(self, work: Coroutine[Any, Any, Result]) -> Future[Result]:
        """Start `work`; `wait` for what is returned. Cancelling that cancels `work`.

        Raises:
            NodeError: if the engine is closed.
        """
        loop = self._loop
        try:
            if loop is None:
                raise RuntimeError("closed")
            return asyncio.run_coroutine_threadsafe(work, loop)
        except RuntimeError as error:  # also if its thread ends right now
            work.close()
            raise NodeError(CLOSED) from error

    def wait(self, future: Future[Result]) -> Result:
        """The result of work that was begun; an interrupt (Ctrl-C) cancels it.

        Raises:
            NodeError: if the engine was closed meanwhile.
        """
        assert threading.current_thread() is not self._thread, "the engine's thread cannot wait for itself"
        try:
            return future.result()
        except CancelledError as error:
            raise NodeError(CLOSED) from error
        except BaseException:
            future.cancel()
            raise

    def start(self, work: Callable[[], Coroutine[Any, Any, Any]]) -> None:
        """Run `work` without waiting; does nothing once closed. Safe to call from garbage collection."""
        loop = self._loop
        if loop is not None:
            with suppress(RuntimeError):  # its thread ends right now
                loop.call_soon_threadsafe(self._spawn, work)

    def _spawn(self, work: Callable[[], Coroutine[Any, Any, Any]]) -> None:
        task = asyncio.get_running_loop().create_task(work())
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    def close(self, last: Callable[[], Coroutine[Any, Any, Any]]) -> None:
        """Run `last`, cancel what still runs and end the thread; idempotent.

        Garbage collection may call this on the engine's own thread: then it does not wait.
        """
        loop = self._loop
        if loop is None:
            return
        if threading.current_thread() is self._thread:
            self._spawn(lambda: self._end(last))
            return
        try:
            self.run(last())
        finally:
            loop.call_soon_threadsafe(self._stop.set)
            self._thread.join(JOIN_TIMEOUT_S)

    async def _end(self, last: Callable[[], Coroutine[Any, Any, Any]]) -> None:
        try:
            await last()
        finally:
            self._stop.set()


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop
    except ImportError:  # not built for this platform; asyncio's own loop is 12% slower
        return None
    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory
