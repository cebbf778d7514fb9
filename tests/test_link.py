"""Links: greeting, requests and their answers, order, back-pressure, heartbeats, and every way to end."""

from __future__ import annotations

import asyncio

import pytest

from swarm.core.errors import (
    PeerBusy,
    PeerError,
    PeerIncompatible,
    PeerTimeout,
    PeerUnreachable,
    RequestError,
    SessionLost,
    SwarmError,
)
from swarm.wire.control_messages import Close, Done, Inspect
from swarm.wire.frames import encode
from swarm.wire.heartbeat import Heartbeat
from swarm.wire.link import Link
from swarm.wire.message import Message
from swarm.wire.messages import Hello, Ping, Pong
from swarm.wire.step_messages import StepMessage
from tests.link_pair import link_pair, make_link, raw_to_link, stream_pair
from tests.wire_nodes import LOOPS, SESSION, Inbox, closed, float_meta, run, until

MEGA = 1 << 20
both_loops = pytest.mark.parametrize("loop", LOOPS)


def step(number: int, floats: int = 1) -> StepMessage:
    return StepMessage(session=SESSION, number=number, start=0, tensors=[float_meta(floats)])


def inspect() -> Inspect:
    return Inspect(request=0, session=SESSION)


class Answering:
    """Answers every request with its own number as length."""

    async def __call__(self, link: Link, message: Message, payload: memoryview) -> None:
        assert isinstance(message, Inspect | Close)
        await link.send(Done(request=message.request, length=message.request))


class Raising:
    """Fails every message with one error."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    async def __call__(self, link: Link, message: Message, payload: memoryview) -> None:
        raise self.error


@both_loops
def test_messages_arrive_in_order_in_both_directions(loop: str) -> None:
    async def scenario() -> None:
        left, right = Inbox(), Inbox()
        async with link_pair(left, right) as (first, second):
            for number in range(100):
                await first.send(step(number), [b"abcd"])
                await second.send(step(1000 + number), [b"efgh"])
            seen = [await right.next() for _ in range(100)]
            assert [message.number for _, message, _ in seen if isinstance(message, StepMessage)] == list(
                range(100)
            )
            link, _, payload = await left.next()
            assert (link, payload) == (first, b"efgh")

    run(scenario(), loop)


@both_loops
@pytest.mark.slow
def test_bulk_and_small_frames_of_many_senders_never_interleave(loop: str) -> None:
    sizes = [5 * MEGA, 1, 3 * MEGA, 7, 2 * MEGA + 1, 100_000, 1]

    async def scenario() -> None:
        right = Inbox()
        async with link_pair(right=right) as (first, _), asyncio.TaskGroup() as tasks:
            for number, size in enumerate(sizes):
                part = memoryview(bytes([number]) * (4 * size))
                tasks.create_task(first.send(step(number, size), [part[: 2 * size], part[2 * size :]]))
            for _ in sizes:
                _, message, payload = await right.next()
                assert isinstance(message, StepMessage)
                assert payload == bytes([message.number]) * (4 * sizes[message.number])

    run(scenario(), loop)


@both_loops
def test_requests_get_their_own_answers(loop: str) -> None:
    async def scenario() -> None:
        async with link_pair(right=Answering()) as (first, _):
            answers = await asyncio.gather(*(first.request(inspect(), 5.0) for _ in range(20)))
            assert [answer.length for answer in answers] == list(range(20))

    run(scenario(), loop)


FAILURES: list[tuple[SwarmError, type[SwarmError]]] = [
    (PeerBusy("no room", retry_after_s=7.0), PeerBusy),
    (SessionLost("unknown session"), SessionLost),
    (PeerIncompatible("other checkpoint"), PeerIncompatible),
    (RequestError("start 7 is over length 3"), RequestError),
    (PeerError("something else"), PeerError),
]


@pytest.mark.parametrize(("error", "expected"), FAILURES)
def test_errors_of_a_handler_reach_the_requester(error: SwarmError, expected: type[SwarmError]) -> None:
    async def scenario() -> None:
        async with link_pair(right=Raising(error)) as (first, _):
            with pytest.raises(expected) as caught:
                await first.request(inspect(), 5.0)
            assert type(caught.value) is expected
            assert str(caught.value) == str(error)
            if isinstance(caught.value, PeerError):
                assert caught.value.peer_id == "right"
            if isinstance(caught.value, PeerBusy):
                assert caught.value.retry_after_s == 7.0

    run(scenario())


def test_a_bug_in_a_handler_is_logged_and_the_link_lives(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        async with link_pair(right=Raising(ZeroDivisionError("oops"))) as (first, second):
            await first.send(step(1), [b"abcd"])
            with pytest.raises(PeerError, match="internal error"):
                await first.request(inspect(), 5.0)
            assert not second.closed

    run(scenario())
    assert "ZeroDivisionError" in caplog.text


def test_an_unanswered_request_times_out_and_its_late_answer_is_ignored() -> None:
    async def scenario() -> None:
        right = Inbox()
        async with link_pair(right=right) as (first, second):
            with pytest.raises(PeerTimeout, match="Inspect"):
                await first.request(inspect(), 0.01)
            await second.send(Done(request=0))
            answer = asyncio.create_task(first.request(inspect(), 5.0))
            await right.next()
            await right.next()
            await second.send(Done(request=1, length=5))
            assert (await answer).length == 5

    run(scenario())


@both_loops
def test_a_closed_link_fails_what_waits_on_it_at_once(loop: str) -> None:
    async def scenario() -> None:
        async with link_pair() as (first, second):
            waiting = [asyncio.create_task(first.request(inspect(), 60.0)) for _ in range(3)]
            gone: list[Link] = []
            first.on_close(gone.append)
            await until(lambda: len(first._pending) == 3, "three requests under way")
            await second.close("done")
            for task in waiting:
                with pytest.raises(PeerUnreachable, match="closed the stream"):
                    await task
            assert gone == [first]
            with pytest.raises(PeerUnreachable):
                await first.send(step(1), [b"abcd"])
            with pytest.raises(PeerUnreachable):
                await first.request(inspect(), 5.0)
            first.on_close(gone.append)
            assert gone == [first, first]

    run(scenario(), loop)


@both_loops
@pytest.mark.slow
def test_a_sender_stuck_in_a_bulk_frame_fails_when_the_link_closes(loop: str) -> None:
    async def scenario() -> None:
        stuck = asyncio.Event()

        async def hold(link: Link, message: Message, payload: memoryview) -> None:
            await stuck.wait()

        async with link_pair(right=hold) as (first, second):
            sends = [
                asyncio.create_task(first.send(step(n, 10 * MEGA), [bytes(40 * MEGA)])) for n in range(3)
            ]
            await asyncio.wait(sends, return_when=asyncio.FIRST_COMPLETED)
            await second.close("done")
            stuck.set()
            results = await asyncio.gather(*sends, return_exceptions=True)
            assert all(isinstance(result, PeerUnreachable | None) for result in results), results
            assert isinstance(results[-1], PeerUnreachable)

    run(scenario(), loop)


def test_a_slow_handler_holds_the_sender_back_but_not_the_heartbeat() -> None:
    async def scenario() -> None:
        go, seen = asyncio.Event(), 0

        async def hold(link: Link, message: Message, payload: memoryview) -> None:
            nonlocal seen
            await go.wait()
            seen += 1

        async with link_pair(right=hold) as (first, _):
            await first.send(step(0), [b"abcd"])
            first.beat(10.0)
            await until(lambda: first.rtt_s is not None, "a pong")
            flood = asyncio.create_task(_flood(first, 3000))
            done, _ = await asyncio.wait([flood], timeout=0.2)
            assert not done, "3000 x 4 KB went into a link whose reader takes nothing"
            go.set()
            await flood
            await until(lambda: seen == 3001, "all messages")

    run(scenario())


async def _flood(link: Link, count: int) -> None:
    for number in range(count):
        await link.send(step(number, 1024), [bytes(4096)])


def test_the_first_round_trips_count_by_their_best_and_later_ones_smoothly() -> None:
    heartbeat, now = Heartbeat(), 0.0
    for took in (0.5, 0.1, 0.3, 0.2):
        nonce = heartbeat.next_ping(now, timed=True)
        now += took
        assert heartbeat.pong(nonce, now, timed=True)
    assert heartbeat.rtt_s == pytest.approx(0.1)
    assert not heartbeat.warming_up
    nonce = heartbeat.next_ping(now, timed=True)
    heartbeat.pong(nonce, now + 0.9, timed=True)
    assert heartbeat.rtt_s == pytest.approx(0.2)
    nonce = heartbeat.next_ping(now, timed=True)
    heartbeat.pong(nonce, now + 0.1, timed=True)
    assert heartbeat.rtt_s == pytest.approx(0.15)


def test_a_ping_behind_a_bulk_payload_is_not_timed() -> None:
    heartbeat = Heartbeat()
    assert not heartbeat.pong(heartbeat.next_ping(0.0, timed=False), 1.0, timed=True)
    assert not heartbeat.pong(heartbeat.next_ping(0.0, timed=True), 1.0, timed=False)
    nonce = heartbeat.next_ping(2.0, timed=True)
    assert heartbeat.pong(nonce, 3.0, timed=True)
    assert not heartbeat.pong(nonce, 4.0, timed=True)
    assert heartbeat.rtt_s == 1.0


def _beat(link: Link) -> bool:
    link.beat(0.05)
    return link.closed


def test_silence_closes_a_link() -> None:
    async def scenario() -> None:
        async with raw_to_link() as (link, (_, writer)):
            writer.write(encode(Hello(protocol=1)))
            await until(lambda: _beat(link), "the end of a silent link")
            assert "nothing came for" in link.close_reason

    run(scenario())


def test_a_pong_gives_the_round_trip_time_and_a_wrong_one_nothing() -> None:
    async def scenario() -> None:
        async with raw_to_link() as (link, (reader, writer)):
            writer.write(encode(Hello(protocol=1)) + encode(Pong(nonce=1)) + encode(Ping(nonce=77)))
            expected = encode(Hello(protocol=1)) + encode(Pong(nonce=77))
            assert await reader.readexactly(len(expected)) == expected
            assert link.rtt_s is None
            link.beat(10.0)
            await reader.readexactly(len(encode(Ping(nonce=1))))
            writer.write(encode(Pong(nonce=1)))
            await until(lambda: link.rtt_s is not None, "a round-trip time")
            assert 0 < (link.rtt_s or 0) < 10

    run(scenario())


def test_another_protocol_version_is_refused_at_both_ends_and_both_versions_are_named() -> None:
    async def scenario() -> None:
        one, two = await stream_pair()
        dialler, acceptor = (
            make_link("b", dialled=True, protocol=1),
            make_link("a", dialled=False, protocol=2),
        )
        results = await asyncio.gather(
            dialler.greet(one, 5.0), acceptor.greet(two, 5.0), return_exceptions=True
        )
        for result, theirs, ours in zip(results, (2, 1), (1, 2), strict=True):
            assert isinstance(result, PeerIncompatible)
            assert f"version {theirs}" in str(result)
            assert f"speaks {ours}" in str(result)
        assert dialler.closed
        assert acceptor.closed

    run(scenario())


@pytest.mark.parametrize("first", [Ping(nonce=1), Done(request=0), inspect()])
def test_whoever_speaks_before_greeting_is_shut_out(first: Message) -> None:
    async def scenario() -> None:
        right = Inbox()
        async with raw_to_link(right) as (link, (_, writer)):
            writer.write(encode(first))
            await closed(link)
            assert "before hello" in link.close_reason
            assert right.received.empty()

    run(scenario())


def test_a_second_greeting_closes_the_link() -> None:
    async def scenario() -> None:
        async with raw_to_link() as (link, (_, writer)):
            writer.write(encode(Hello(protocol=1)) * 2)
            await closed(link)
            assert "second hello" in link.close_reason

    run(scenario())


def test_whoever_never_greets_is_shut_out() -> None:
    async def scenario() -> None:
        one, (_, writer) = await stream_pair()
        with pytest.raises(PeerTimeout):
            await make_link("silent", dialled=False).greet(one, 0.02)
        writer.close()

    run(scenario())


def test_what_came_before_the_end_is_still_handled() -> None:
    async def scenario() -> None:
        right = Inbox()
        async with link_pair(right=right) as (first, second):
            for number in range(10):
                await first.send(step(number), [b"abcd"])
            await first.close("done")
            await closed(second)
            for number in range(10):
                _, message, _ = await right.next()
                assert isinstance(message, StepMessage)
                assert message.number == number

    run(scenario())


@pytest.mark.slow
def test_a_frame_over_the_receivers_limit_closes_the_link() -> None:
    async def scenario() -> None:
        async with link_pair(max_payload_bytes=1000) as (first, second), raw_to_link() as (other, _):
            with pytest.raises(RequestError, match="fewer tokens"):
                await first.send(step(1, 251), [bytes(1004)])
            assert not first.closed
            assert not second.closed
            assert not other.closed

    run(scenario())
