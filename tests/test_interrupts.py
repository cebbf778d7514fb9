"""Ctrl-C in the middle of a step: nothing stays reserved that nobody uses, and the same step may be taken again."""

from __future__ import annotations

import asyncio

import pytest
import torch

from swarm.core.errors import SessionLost
from swarm.shards.step import Step, StepTensors
from swarm.wire.control_messages import Done, Open
from swarm.wire.message import Message
from swarm.wire.step_messages import StepMessage
from tests.in_process import Lab, LabSession
from tests.shard_lab import hidden

STATES = hidden(9)
FIRST, SECOND = Step(0, 0, StepTensors(STATES[:, :8])), Step(1, 8, StepTensors(STATES[:, 8:]))


def interrupted(lab: Lab, session: LabSession, step: Step, after_s: float = 0.5) -> None:
    """Begin a step and cancel it."""

    async def scenario() -> None:
        task = asyncio.create_task(session.chain.step(step, 1))
        await asyncio.sleep(after_s)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    lab.do(scenario())


def expected(lab: Lab) -> torch.Tensor:
    session = lab.open()
    found = session.step(Step(0, 0, StepTensors(STATES)), keep_last=1)
    session.close()
    return found[:, -1:]


@pytest.mark.parametrize("victim", ["A", "B"])
def test_a_step_that_was_interrupted_while_a_hop_computes_can_be_taken_again(victim: str) -> None:
    with Lab() as lab:
        lab.serve("A", 0, 3)
        lab.serve("B", 3, 6)
        session = lab.open()
        session.step(FIRST, keep_last=1)
        device = lab.peers[victim].executor
        device.held = True
        interrupted(lab, session, SECOND)
        device.release()
        found = session.step(SECOND, keep_last=1)
        assert torch.allclose(found, expected(lab), atol=1e-5)
        session.close()


def test_sessions_whose_opening_was_interrupted_are_not_left_behind() -> None:
    with Lab() as lab:
        lab.serve("A", 0, 3)
        lab.serve("B", 3, 6)
        lab.meadow.fate = lambda source, sink, message: int(not (source == "B" and isinstance(message, Done)))
        session = lab.open()
        interrupted(lab, session, FIRST)
        lab.settle()
        assert any(isinstance(message, Open) for _, _, message in lab.meadow.log)
        for peer in lab.peers.values():
            assert len(peer.service.sessions) == 0
            assert peer.pool.free_tokens == peer.pool.total_tokens


@pytest.mark.slow
def test_a_replacement_whose_replay_was_interrupted_is_not_left_behind() -> None:
    with Lab() as lab:
        for name, start, cost in (("A", 0, 0.001), ("B", 3, 0.001), ("b", 3, 0.1)):
            lab.serve(name, start, start + 3, cost=cost)
        session = lab.open()
        session.step(FIRST, keep_last=1)
        lab.do(lab.kill("B"))

        def loses_replays(source: str, sink: str, message: Message) -> int:
            return int(not (isinstance(message, StepMessage) and message.replay is not None))

        lab.meadow.fate = loses_replays
        interrupted(lab, session, SECOND)
        lab.settle()
        assert len(lab.peers["b"].service.sessions) == 0
        lab.meadow.fate = lambda source, sink, message: 1
        found = session.step(SECOND, keep_last=1)
        assert torch.allclose(found, expected(lab), atol=1e-5)
        session.close()


def test_two_steps_of_one_session_at_once_are_taken_one_after_the_other() -> None:
    with Lab() as lab:
        lab.serve("A", 0, 6)
        session = lab.open()

        async def both() -> list[torch.Tensor]:
            steps = (session.chain.step(FIRST, 1), session.chain.step(SECOND, 1))
            return list(await asyncio.gather(*steps))

        assert torch.allclose(lab.do(both())[1], expected(lab), atol=1e-5)
        session.close()


def test_a_request_number_nobody_uses_ends_dismissed_sessions() -> None:
    """`dismiss` does not wait for its answer, which therefore must not be taken for another one."""
    with Lab() as lab:
        lab.serve("A", 0, 6)
        session = lab.open()
        session.step(FIRST, keep_last=1)
        hop = session.chain.hops[0]
        lab.do(hop.dismiss())
        lab.settle()
        assert len(lab.peers["A"].service.sessions) == 0
        with pytest.raises(SessionLost):
            lab.do(hop.inspect(5.0))
