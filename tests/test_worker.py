"""The queue in front of the device: what waits runs together, and everybody hears what became of his step."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest
import torch

from swarm.core.errors import PeerError, RequestError, SessionLost
from swarm.core.span import Span
from swarm.peer.hop_session import HopSession
from swarm.peer.scheduler import LEAST_WAIT_S, PATIENCE_S
from swarm.peer.worker import Finished, Worker
from swarm.shards.step import Step, StepTensors
from swarm.wire.link import Link
from swarm.wire.step_messages import StepMessage
from tests.in_process import shard_of
from tests.lab_peer import InlineExecutor
from tests.virtual_time import run

pytestmark = pytest.mark.slow
BATCH_TOKENS = 64
MESSAGE = cast(StepMessage, None)  # the worker only hands it back


class Bench:
    """A worker whose device is held still until `work`."""

    def __init__(self, *, together: bool = True) -> None:
        loop = asyncio.get_running_loop()
        self.device = InlineExecutor(loop)
        self.device.held = True
        self.finished: list[Finished] = []
        self.worker = Worker(
            self.device, self.finished.append, BATCH_TOKENS, together=together, clock=loop.time
        )

    def session(self, name: bytes) -> HopSession:
        shard = shard_of("llama", 0, 3)
        return HopSession(
            name, cast(Link, None), shard.open(Span(0, 3), rollback=True), None, None, None, 0, 0.0
        )

    def submit(self, session: HopSession, tokens: int = 1, number: int = 0, start: int = 0) -> None:
        states = StepTensors(torch.ones(1, tokens, 32))
        self.worker.submit(session, MESSAGE, Step(number, start, states))

    def output(self, index: int) -> torch.Tensor:
        output = self.finished[index].output
        assert output is not None
        return output.hidden

    async def turn(self) -> list[bytes]:
        """One turn of the device; the sessions whose steps were in it."""
        await settle()
        done = len(self.finished)
        self.device._next()
        return [finished.session.id for finished in self.finished[done:]]


async def settle() -> None:
    await asyncio.sleep(0.01)


def test_everything_that_waits_runs_in_one_turn_and_one_step_of_each_session() -> None:
    async def scenario() -> None:
        bench = Bench()
        first, second = bench.session(b"a"), bench.session(b"b")
        bench.submit(first)
        bench.submit(first, number=1, start=1)
        bench.submit(second, tokens=20)
        assert await bench.turn() == [b"a", b"b"]
        assert await bench.turn() == [b"a"]
        assert await bench.turn() == []
        assert bench.worker.computed_tokens == 22
        assert first.shard.length == 2

    run(scenario())


def test_one_by_one_means_one_step_in_a_turn() -> None:
    async def scenario() -> None:
        bench = Bench(together=False)
        for name in (b"a", b"b"):
            bench.submit(bench.session(name))
        assert await bench.turn() == [b"a"]
        assert await bench.turn() == [b"b"]

    run(scenario())


def test_one_by_one_a_decode_step_waits_for_one_portion_of_a_prompt_at_most() -> None:
    async def scenario() -> None:
        bench = Bench(together=False)
        decoding, long = bench.session(b"decoding"), bench.session(b"long")
        bench.submit(decoding)
        await bench.turn()
        bench.submit(long, tokens=60)
        portions = 0
        for number in range(1, 40):
            await asyncio.sleep(2 * PATIENCE_S)  # on a device as slow as that, everybody is late
            bench.submit(decoding, number=number, start=number)
            before = long.shard.length
            turns = [await bench.turn(), await bench.turn()]
            assert [b"decoding"] in turns
            portions += long.shard.length > before
        assert long.shard.length == 60
        assert portions > 3

    run(scenario())


def test_a_refused_step_is_delivered_as_such_and_the_others_run() -> None:
    async def scenario() -> None:
        bench = Bench()
        bench.submit(bench.session(b"a"))
        bench.submit(bench.session(b"b"), start=5)
        await bench.turn()
        good, bad = bench.finished
        assert good.output is not None
        assert good.error is None
        assert isinstance(bad.error, RequestError)
        assert bad.output is None

    run(scenario())


def test_a_failing_forward_is_told_to_every_session_in_it() -> None:
    async def scenario() -> None:
        bench = Bench()
        for name in (b"a", b"b"):
            bench.submit(bench.session(name))
        layer: Any = shard_of("llama", 0, 3).window[1]
        handle = layer.register_forward_pre_hook(lambda *_: (_ for _ in ()).throw(ValueError("broken")))
        try:
            await bench.turn()
        finally:
            handle.remove()
        assert ["broken" in str(finished.error) for finished in bench.finished] == [True, True]
        assert all(isinstance(finished.error, PeerError) for finished in bench.finished)

    run(scenario())


def test_a_question_is_answered_after_the_steps_of_its_session_and_beside_those_of_others() -> None:
    async def scenario() -> None:
        bench = Bench()
        first, second = bench.session(b"a"), bench.session(b"b")
        bench.submit(first, tokens=3)
        answer = bench.worker.ask(first, lambda: first.shard.length)
        failing = bench.worker.ask(second, lambda: {"rows": 1}["length"])
        assert await bench.turn() == [b"a"]
        assert await bench.turn() == []
        assert await answer == 3
        with pytest.raises(PeerError, match="KeyError"):
            await failing

    run(scenario())


def test_a_repeated_prompt_does_not_wait_like_one() -> None:
    async def scenario() -> None:
        bench = Bench()
        long, short, decoding = bench.session(b"long"), bench.session(b"short"), bench.session(b"decoding")
        bench.submit(decoding)
        bench.submit(short, tokens=20)
        await settle()
        bench.submit(long, tokens=500)
        bench.submit(short, tokens=20)
        bench.submit(short, number=1, start=20)
        bench.submit(decoding, number=1, start=1)
        assert await bench.turn() == [b"decoding", b"short"]
        assert await bench.turn() == [b"short", b"decoding"], "what is kept goes along as decode steps do"
        assert torch.equal(bench.output(1), bench.output(2))
        assert await bench.turn() == [b"short"]
        assert bench.worker.computed_tokens < 20 + 3 + 500

    run(scenario())


def test_what_has_begun_goes_back_to_its_place_among_what_waits() -> None:
    async def scenario() -> None:
        bench = Bench()
        decoding, older, newer = bench.session(b"decoding"), bench.session(b"older"), bench.session(b"newer")
        bench.submit(decoding)
        await bench.turn()
        bench.submit(older, tokens=60)
        await settle()
        bench.submit(newer, tokens=40)
        order: list[bytes] = []
        for number in range(1, 40):
            if not order or order[-1] != b"older":
                bench.submit(decoding, number=number, start=number)
                order += sorted(await bench.turn())
        assert [name for name in order if name != b"decoding"] == [b"newer", b"older"]

    run(scenario())


def test_what_waits_for_a_session_that_ended_is_lost() -> None:
    async def scenario() -> None:
        bench = Bench()
        first, second = bench.session(b"a"), bench.session(b"b")
        bench.submit(first)
        bench.submit(second)
        bench.worker.forget(first)
        assert isinstance(bench.finished[0].error, SessionLost)
        assert await bench.turn() == [b"b"]

    run(scenario())


def test_an_idle_device_waits_for_sessions_that_are_about_to_return() -> None:
    async def scenario() -> None:
        bench = Bench()
        bench.worker._pace.share.decode_s = 0.05
        first, second = bench.session(b"a"), bench.session(b"b")
        for number in range(3):
            bench.submit(first, number=number, start=number)
            if number == 2:
                await asyncio.sleep(LEAST_WAIT_S / 2)
            bench.submit(second, number=number, start=number)
            assert await bench.turn() == [b"a", b"b"]

    run(scenario())


def test_sessions_that_are_away_as_long_as_a_batch_takes_run_in_two_halves() -> None:
    async def scenario() -> None:
        bench = Bench()
        sessions = [bench.session(bytes([i])) for i in range(4)]
        for session in sessions:
            bench.submit(session)
        assert len(await bench.turn()) == 4, "nothing is known yet"
        bench.worker._pace.share.decode_s = 0.05
        await asyncio.sleep(0.5)
        for session in sessions:
            bench.submit(session, number=1, start=1)
        assert await bench.turn() == [b"\x00", b"\x01"]
        assert await bench.turn() == [b"\x02", b"\x03"]

    run(scenario())


def test_who_was_left_over_waits_for_the_rest_of_a_group() -> None:
    async def scenario() -> None:
        bench = Bench()
        sessions = [bench.session(bytes([i])) for i in range(4)]
        for number in range(2):
            for session in sessions:
                bench.submit(session, number=number, start=number)
            while await bench.turn():
                pass
            bench.worker._pace.share.decode_s = 0.05
            await asyncio.sleep(0.5)
        for session in sessions[:3]:
            bench.submit(session, number=2, start=2)
        assert await bench.turn() == [b"\x00", b"\x01"]
        assert await bench.turn() == [], "it waits, since the device has just become idle"
        bench.submit(sessions[3], number=2, start=2)
        assert await bench.turn() == [b"\x02", b"\x03"]

    run(scenario())


def test_a_long_step_runs_in_portions_beside_decode_steps_and_ends_as_one() -> None:
    async def scenario() -> None:
        bench = Bench()
        long, short, alone = bench.session(b"long"), bench.session(b"short"), bench.session(b"alone")
        bench.submit(short)
        await bench.turn()
        states = StepTensors(torch.randn(1, 40, 32))
        bench.worker.submit(long, MESSAGE, Step(0, 0, states))
        turns = 0
        while not (ended := await bench.turn()) or ended == [b"short"]:
            turns += 1
            bench.submit(short, number=turns, start=turns)
        assert turns >= 1
        output = next(finished.output for finished in bench.finished if finished.session is long)
        expected = alone.shard.apply(Step(0, 0, states))
        assert output is not None
        torch.testing.assert_close(output.hidden, expected.hidden)
        assert long.shard.counters.tokens == 40

    run(scenario())


def test_a_long_step_of_a_session_that_ends_half_way_is_finished_once() -> None:
    async def scenario() -> None:
        bench = Bench()
        long, short = bench.session(b"long"), bench.session(b"short")
        bench.submit(short)
        await bench.turn()
        bench.submit(long, tokens=40)
        await settle()
        long.closed = True
        bench.worker.forget(long)
        await bench.turn()
        [lost] = [finished for finished in bench.finished if finished.session is long]
        assert isinstance(lost.error, SessionLost)
        assert bench.worker.queue_s == 0.0

    run(scenario())


def test_nothing_is_remembered_of_a_session_that_ends_while_its_step_runs() -> None:
    async def scenario() -> None:
        bench = Bench()
        ended, other = bench.session(b"ended"), bench.session(b"other")
        bench.submit(ended)
        await settle()
        ended.closed = True
        bench.worker.forget(ended)
        assert await bench.turn() == [b"ended"]
        bench.submit(other)
        assert await bench.turn() == [b"other"]
        assert bench.worker._pace.absences.is_alone(b"other"), "its next step need not wait for anybody"

    run(scenario())
