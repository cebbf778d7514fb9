"""The client's event loop on its own thread: results, errors, interrupts, and every way to end."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import threading
import weakref
from collections.abc import Iterator

import pytest

from swarm.client.engine import Engine
from swarm.core.errors import NodeError, PeerError


@pytest.fixture
def engine() -> Iterator[Engine]:
    engine = Engine()
    yield engine
    engine.close(nothing)
    assert not engine._thread.is_alive()


async def nothing() -> None:
    """The last thing to do."""


async def double(number: int) -> int:
    await asyncio.sleep(0)
    return 2 * number


async def fail() -> None:
    raise PeerError("as expected")


def test_results_and_errors_come_back_to_the_caller(engine: Engine) -> None:
    assert engine.run(double(4)) == 8
    with pytest.raises(PeerError, match="as expected"):
        engine.run(fail())


def test_many_threads_may_use_it_at_once(engine: Engine) -> None:
    found: list[int] = []
    threads = [threading.Thread(target=lambda n=n: found.append(engine.run(double(n)))) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(found) == [0, 2, 4, 6, 8, 10, 12, 14]


def test_it_can_be_used_inside_of_a_running_loop(engine: Engine) -> None:
    """As in a notebook, whose cells run in one."""

    async def cell() -> int:
        return engine.run(double(3))

    assert asyncio.run(cell()) == 6


def test_an_interrupt_cancels_the_work(engine: Engine) -> None:
    started, cancelled = threading.Event(), threading.Event()

    async def work() -> None:
        started.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.set()
            raise

    future = asyncio.run_coroutine_threadsafe(work(), engine._loop)  # type: ignore[arg-type]
    assert started.wait(5.0)
    future.cancel()
    assert cancelled.wait(5.0)
    assert engine.run(double(1)) == 2


def test_closing_runs_the_last_work_and_cancels_the_rest() -> None:
    engine, seen = Engine(), []

    async def forever() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            seen.append("cancelled")

    async def last() -> None:
        seen.append("last")

    engine.start(forever)
    engine.run(double(1))
    engine.close(last)
    engine.close(last)
    assert seen == ["last", "cancelled"]


def test_once_closed_it_says_so_and_background_work_is_dropped() -> None:
    engine = Engine()
    engine.close(nothing)
    with pytest.raises(NodeError, match="closed: load it again"):
        engine.run(double(1))
    engine.start(nothing)


def test_waiting_callers_of_an_engine_that_closes_are_told() -> None:
    engine, errors = Engine(), []
    started = threading.Event()

    async def forever() -> None:
        started.set()
        await asyncio.Event().wait()

    def call() -> None:
        try:
            engine.run(forever())
        except NodeError as error:
            errors.append(error)

    caller = threading.Thread(target=call)
    caller.start()
    assert started.wait(5.0)
    engine.close(nothing)
    caller.join(5.0)
    assert len(errors) == 1


def test_garbage_collected_on_its_own_thread_it_still_ends() -> None:
    """A model in a reference cycle is collected by whichever thread runs into it, this one included."""

    class Model:
        def __init__(self) -> None:
            self.itself = self

    engine, seen = Engine(), []
    model = Model()

    async def last() -> None:
        seen.append(threading.current_thread() is engine._thread)

    finalizer = weakref.finalize(model, engine.close, last)
    del model

    async def collect() -> None:
        gc.collect()

    with contextlib.suppress(NodeError):
        engine.run(collect())
    engine._thread.join(5.0)
    assert not engine._thread.is_alive()
    assert (seen, finalizer.alive) == ([True], False)
