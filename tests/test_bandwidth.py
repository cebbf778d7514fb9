"""What a node's links carry: the best of recent transfers, timed to their arrival, and told to the receiver."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from swarm.wire.bandwidth import (
    KEPT_S,
    LEAST_BYTES,
    LEAST_SAMPLES,
    MAX_BYTES_PER_S,
    Bandwidth,
    BulkTimer,
    RecentBest,
)
from swarm.wire.step_messages import StepMessage
from tests.link_pair import Streams, make_link, running, stream_pair
from tests.wire_nodes import SESSION, float_meta, run, until

BULK = LEAST_BYTES
PIPE_BYTES_PER_S = 4e6


class Clock:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def sent(timer: BulkTimer, began_s: float) -> int:
    """The nonce of the ping behind a bulk payload."""
    nonce = timer.sent(BULK, began_s)
    assert nonce is not None
    return nonce


def test_the_best_recent_sample_counts_and_the_last_one_of_all_stays() -> None:
    clock = Clock()
    best = RecentBest(clock)
    assert best.value == 0.0
    for at_s, sample, expected in (
        (0, 5.0, 5.0),
        (1, 3.0, 5.0),
        (2, 8.0, 8.0),
        (KEPT_S, 4.0, 8.0),
        (KEPT_S + 3, 2.0, 4.0),
    ):
        clock.now_s = at_s
        best.add(sample)
        assert best.value == expected
    clock.now_s = 10 * KEPT_S
    assert best.value == 2.0


def test_the_first_samples_are_too_few_to_go_by() -> None:
    best = RecentBest(Clock(), least=3)
    found = []
    for sample in (1.0, 9.0, 5.0):
        best.add(sample)
        found.append(best.value)
    assert found == [0.0, 0.0, 9.0]


def test_a_transfer_takes_until_its_pong_less_a_round_trip() -> None:
    upload = RecentBest(Clock())
    timer = BulkTimer(upload)
    nonce = sent(timer, 10.0)
    timer.pong(nonce, now_s=10.3, rtt_s=0.1)
    assert upload.value == pytest.approx(BULK / 0.2)
    assert timer.take_news() == upload.value
    assert timer.take_news() == 0.0
    timer.pong(nonce, now_s=10.31, rtt_s=0.1)
    assert timer.take_news() == 0.0, "one pong, one sample"


def test_a_round_trip_that_is_longer_than_the_transfer_gives_no_boundless_rate() -> None:
    upload = RecentBest(Clock())
    timer = BulkTimer(upload)
    timer.pong(sent(timer, 0.0), now_s=0.1, rtt_s=5.0)
    assert 0 < upload.value <= 8 * BULK / 0.1
    for began_s in (0.0, 1.0):
        timer.pong(sent(timer, began_s), now_s=began_s, rtt_s=None)
    assert upload.value <= MAX_BYTES_PER_S


def test_small_messages_and_made_up_pongs_tell_nothing() -> None:
    upload = RecentBest(Clock())
    timer = BulkTimer(upload)
    assert timer.sent(BULK - 1, 0.0) is None
    nonce = sent(timer, 0.0)
    timer.pong(nonce + 1, 1.0, 0.0)
    timer.pong(0, 1.0, 0.0)
    assert upload.value == 0.0


def test_transfers_under_way_are_bounded_and_lost_pings_are_forgotten() -> None:
    timer = BulkTimer(RecentBest(Clock()))
    nonces = [timer.sent(BULK, 0.0) for _ in range(50)]
    timed = [nonce for nonce in nonces if nonce is not None]
    assert 1 < len(timed) < 50
    timer.pong(timed[-1], 1.0, None)
    assert [timer.sent(BULK, 2.0) is None for _ in timed] == [False] * len(timed)


def test_pings_that_nobody_answers_do_not_end_the_measuring() -> None:
    timer = BulkTimer(RecentBest(Clock()))
    while timer.sent(BULK, 0.0) is not None:
        pass
    assert timer.sent(BULK, 1.0) is None
    assert timer.sent(BULK, 3600.0) is not None


@asynccontextmanager
async def slow_pipe() -> AsyncIterator[tuple[Streams, Streams]]:
    """Two connected streams; what goes from the first to the second is held to `PIPE_BYTES_PER_S`."""
    first, near = await stream_pair()
    far, second = await stream_pair()

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, bytes_per_s: float) -> None:
        while data := await reader.read(16 << 10):
            await asyncio.sleep(len(data) / bytes_per_s)
            writer.write(data)
            await writer.drain()

    tasks = [
        asyncio.create_task(pump(near[0], far[1], PIPE_BYTES_PER_S)),
        asyncio.create_task(pump(far[0], near[1], 1e12)),
    ]
    try:
        yield first, second
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        near[1].close()
        far[1].close()


def test_both_ends_of_a_slow_link_know_what_it_carries() -> None:
    async def scenario() -> None:
        uphill, downhill = Bandwidth(), Bandwidth()
        first = make_link("right", dialled=True, bandwidth=uphill)
        second = make_link("left", dialled=False, bandwidth=downhill)
        async with slow_pipe() as (one, two):
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(first.greet(one, 5.0))
                tasks.create_task(second.greet(two, 5.0))
            async with running(first, second):
                first.beat(60.0)
                await until(lambda: first.rtt_s is not None, "a round trip")
                floats = 1 << 18
                step = StepMessage(session=SESSION, number=0, start=0, tensors=[float_meta(floats)])
                for _ in range(LEAST_SAMPLES):
                    await first.send(step, [bytes(4 * floats)])
                await until(lambda: uphill.upload.value > 0, "the transfer is timed")
                first.beat(60.0)
                await until(lambda: downhill.download.value > 0, "the receiver is told")
                # the pipe delays what it passes on, so nothing can have been faster; the round trip is a guess
                assert uphill.upload.value <= 1.2 * PIPE_BYTES_PER_S
                assert downhill.download.value == uphill.upload.value
                assert uphill.download.value == downhill.upload.value == 0.0

    run(scenario())
