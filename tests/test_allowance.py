"""How much of a session may be inside of a peer at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest

from swarm.peer.allowance import Allowance
from swarm.peer.crew import Crew
from tests.virtual_time import run


def test_who_sends_more_than_fits_waits_until_something_leaves() -> None:
    async def scenario() -> None:
        allowance, log = Allowance(100), []

        async def bring(size: int) -> None:
            await allowance.acquire(size)
            log.append(size)

        async with asyncio.TaskGroup() as tasks:
            for size in (60, 50, 30):
                tasks.create_task(bring(size))
            await asyncio.sleep(1.0)
            assert log == [60, 30]
            allowance.release(60)
            await asyncio.sleep(1.0)
            assert log == [60, 30, 50]
        assert allowance.used_bytes == 80

    run(scenario())


def test_a_single_piece_of_any_size_is_let_in() -> None:
    async def scenario() -> None:
        allowance = Allowance(100)
        await allowance.acquire(1000)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(5.0):
                await allowance.acquire(1)
        allowance.release(1000)
        await allowance.acquire(1)

    run(scenario())


async def _fail() -> None:
    raise KeyError("nobody expected this")


async def _forever() -> None:
    await asyncio.Event().wait()


@pytest.mark.parametrize("work", [_fail, _forever], ids=["fails", "never ends"])
def test_no_task_of_a_crew_takes_others_down_or_holds_them_up(
    work: Any, caplog: pytest.LogCaptureFixture
) -> None:
    done: list[int] = []

    async def count() -> None:
        await asyncio.sleep(1.0)
        done.append(1)

    async def scenario() -> None:
        async with asyncio.TaskGroup() as tasks:
            crew = Crew(tasks)
            jobs: list[Coroutine[Any, Any, None]] = [work(), count()]
            for job in jobs:
                crew.start(job)
            await asyncio.sleep(2.0)
            crew.stop()
            crew.start(count())
        assert len(crew) == 0

    run(scenario())
    assert done == [1], "what is started after the end does not run"
    assert ("nobody expected this" in caplog.text) == (work is _fail)
