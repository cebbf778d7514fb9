"""Peers that leave hand the state of live sessions to others: no token changes, and nothing is computed again."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
import torch

from swarm.core.config import PeerLimits
from swarm.core.span import Span
from swarm.shards.step import Step, StepTensors
from swarm.wire.control_messages import StateEnd, Transfer
from swarm.wire.message import Message
from swarm.wire.step_messages import StatePart, StepMessage
from tests.generation import TokenList
from tests.in_process import Lab, serve_twice
from tests.shard_lab import hidden, left_padded, prompt
from tests.test_repair import Once

pytestmark = pytest.mark.slow

WAYS: dict[str, dict[str, Any]] = {
    "greedy": {"input_ids": prompt()},
    "sampling": {"input_ids": prompt(), "do_sample": True, "temperature": 0.9},
    "batch": left_padded(),
    "beams": {"input_ids": prompt(), "num_beams": 3},
    "lookup": {"input_ids": prompt(6).repeat(1, 3), "prompt_lookup_num_tokens": 3},
}


async def drain(lab: Lab, *names: str) -> None:
    for name in names:
        lab.peers[name].service.drain()


def computed(lab: Lab) -> dict[str, int]:
    """Token rows that each span has computed, by whichever peer."""
    spent = {name: peer.service.load.computed_tokens for name, peer in lab.peers.items()}
    return {name: sum(n for peer, n in spent.items() if peer[0].upper() == name) for name in "ABC"}


def check_moved(lab: Lab, hops: int) -> None:
    """So many hops were handed over, and every layer has computed every token once."""
    assert lab.stats.handovers == hops
    assert (lab.stats.failovers, lab.stats.replayed_tokens) == (0, 0)
    assert len(set(computed(lab).values())) == 1


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
@pytest.mark.parametrize("leaving", ["A", "B", "C", "AB", "ABC"])
def test_what_leaving_peers_hold_goes_to_others(leaving: str, way: dict[str, Any]) -> None:
    with Lab() as lab:
        serve_twice(lab)
        lab.before_call[2] = lambda: drain(lab, *leaving)
        lab.check_exact(**way, max_new_tokens=24)
        check_moved(lab, len(leaving))
        assert lab.loop.time() == 1000.0, "nobody waited for anything"


def test_a_streamed_text_goes_on() -> None:
    with Lab() as lab:
        serve_twice(lab)
        lab.before_call[4] = lambda: drain(lab, "B")
        streamer = TokenList()
        tokens = lab.generate(input_ids=prompt(), streamer=streamer)
        assert [streamer.tokens] == tokens == lab.local(input_ids=prompt())
        check_moved(lab, 1)


@pytest.mark.parametrize("model_type", ["gemma2", "gpt2", "deepseek_v3", "lfm2", "qwen3_next", "mamba2"])
def test_caches_that_slide_or_recur_are_handed_over(model_type: str) -> None:
    with Lab(model_type) as lab:
        serve_twice(lab)
        lab.before_call[3] = lambda: drain(lab, "A", "C")
        lab.check_exact(**left_padded())
        check_moved(lab, 2)


@pytest.mark.parametrize("model_type", ["llama", "gemma2", "gpt2"])
def test_a_session_that_was_handed_over_rolls_back(model_type: str) -> None:
    with Lab(model_type) as lab:
        serve_twice(lab)
        lab.before_call[2] = lambda: drain(lab, "B")
        lab.check_exact(**WAYS["lookup"])
        check_moved(lab, 1)


def test_a_cache_that_cannot_be_moved_stays_until_its_peer_is_gone() -> None:
    with Lab("falcon_h1") as lab:
        serve_twice(lab)
        lab.before_call[3] = lambda: drain(lab, "B")
        lab.before_call[6] = lambda: lab.kill("B")
        lab.check_exact(input_ids=prompt())
        assert (lab.stats.handovers, lab.stats.failovers) == (0, 1)


def reaches(peer: str, kind: type[Message]) -> Callable[[str, str, Message], bool]:
    return lambda source, sink, message: sink == peer and isinstance(message, kind)


@pytest.mark.parametrize("leaving", ["A", "B", "C"])
def test_a_step_that_is_under_way_ends_first(leaving: str) -> None:
    with Lab() as lab:
        serve_twice(lab)
        steps: list[int] = []

        def fifth_step(source: str, sink: str, message: Message) -> bool:
            if sink == leaving and isinstance(message, StepMessage):
                steps.append(message.number)
            return len(steps) == 5

        fate = lab.meadow.fate = Once(fifth_step, 1, lab.peers[leaving].service.drain)
        lab.check_exact(input_ids=prompt())
        assert fate.happened
        check_moved(lab, 1)


def test_a_session_between_two_steps_moves_without_being_asked_for_anything() -> None:
    states = hidden(8)
    with Lab() as lab:
        serve_twice(lab)
        session = lab.open()
        session.step(Step(0, 0, StepTensors(states[:, :7])), keep_last=1)
        lab.do(drain(lab, "A", "B", "C"))
        lab.do(asyncio.sleep(0.1))
        assert lab.chain == ["a", "b", "c"]
        assert [len(lab.peers[name].service.sessions) for name in "ABCabc"] == [0, 0, 0, 1, 1, 1]
        session.step(Step(1, 7, StepTensors(states[:, 7:])), keep_last=1)
        check_moved(lab, 3)
        session.close()


@pytest.mark.parametrize("kind", [Transfer, StatePart, StateEnd])
@pytest.mark.parametrize("victim", ["B", "b", "C"], ids=["donor", "replacement", "neighbour"])
def test_a_death_in_the_middle_changes_no_token(kind: type[Message], victim: str) -> None:
    with Lab() as lab:
        serve_twice(lab)
        lab.serve("bb", 2, 4, cost=0.2)
        lab.before_call[4] = lambda: drain(lab, "B")
        sink = "B" if kind is Transfer else "b"

        def kill() -> None:
            lab.tasks.create_task(lab.kill(victim))

        fate = lab.meadow.fate = Once(reaches(sink, kind), 1, kill)
        lab.check_exact(input_ids=prompt())
        assert fate.happened


@pytest.mark.parametrize("kind", [Transfer, StatePart, StateEnd])
def test_a_message_that_is_lost_delays_the_move_and_changes_no_token(kind: type[Message]) -> None:
    with Lab() as lab:
        serve_twice(lab)
        lab.before_call[4] = lambda: drain(lab, "B")
        fate = lab.meadow.fate = Once(reaches("B" if kind is Transfer else "b", kind))
        lab.check_exact(input_ids=prompt())
        assert fate.happened
        assert lab.stats.failovers == 0


def test_a_replacement_that_the_leaving_peer_cannot_reach_is_passed_over() -> None:
    with Lab() as lab:
        serve_twice(lab)
        lab.serve("bb", 2, 4, cost=0.2)
        lab.do(lab.meadow.wall("B", "b"))
        lab.before_call[2] = lambda: drain(lab, "B")
        lab.before_call[4] = lambda: asyncio.sleep(3.0)
        lab.check_exact(input_ids=prompt())
        check_moved(lab, 1)
        assert lab.peers["bb"].service.load.computed_tokens > 0


def test_without_anybody_to_take_over_the_peer_serves_on_and_later_comers_are_found() -> None:
    with Lab() as lab:
        lab.serve("A", 0, 2)
        lab.serve("B", 2, 6)
        lab.before_call[2] = lambda: drain(lab, "B")

        async def arrive() -> None:
            await lab._serve("b", Span(2, 6), 0.1, 4096, PeerLimits())
            await lab.shared.navigator.refresh()
            await asyncio.sleep(3.0)

        lab.before_call[6] = arrive
        lab.check_exact(input_ids=prompt())
        assert (lab.stats.handovers, lab.stats.failovers) == (1, 0)
        assert lab.peers["b"].service.load.computed_tokens > 0


@pytest.mark.parametrize("leaving", ["A", "C", "AC"])
def test_a_session_that_cannot_go_on_lets_leaving_peers_go(leaving: str) -> None:
    """They may be about to serve what it waits for: a peer that moves does so when its last session has gone."""
    with Lab() as lab:
        serve_twice(lab)

        async def move() -> None:
            for name in leaving:
                assert await lab.peers[name].service.emptied(10.0)
            await lab._serve("bb", Span(2, 4), 0.1, 4096, PeerLimits())

        async def lose_the_middle() -> None:
            await lab.kill("B", "b")
            await drain(lab, *leaving)
            lab.tasks.create_task(move())

        lab.before_call[4] = lose_the_middle
        lab.check_exact(input_ids=prompt())
        assert lab.peers["bb"].service.load.computed_tokens > 0


def test_a_leaving_peer_keeps_its_session_while_a_replacement_comes() -> None:
    with Lab() as lab:
        serve_twice(lab)

        async def come_back() -> None:
            await asyncio.sleep(1.0)
            await lab._serve("bb", Span(2, 4), 0.1, 4096, PeerLimits())

        async def lose_the_middle() -> None:
            await lab.kill("B", "b")
            await drain(lab, "A")
            lab.tasks.create_task(come_back())

        lab.before_call[4] = lose_the_middle
        lab.before_call[8] = lambda: asyncio.sleep(3.0)
        lab.check_exact(input_ids=prompt())
        assert lab.stats.handovers == 1


def run_four_sessions(lab: Lab, moves: int) -> list[list[torch.Tensor]]:
    """The outputs of 30 steps of four sessions at once, while peers leave and come back so many times."""
    sessions = [lab.open() for _ in range(4)]
    inputs = [hidden(35, seed=seed) for seed in range(4)]
    outputs: list[list[torch.Tensor]] = [[] for _ in sessions]

    async def step(index: int, number: int, start: int, end: int) -> None:
        tensors = StepTensors(inputs[index][:, start:end])
        outputs[index].append(await sessions[index].chain.step(Step(number, start, tensors), 1))

    async def step_all(number: int, start: int, end: int) -> None:
        await asyncio.gather(*(step(i, number, start, end) for i in range(len(sessions))))

    lab.do(step_all(0, 0, 6))
    for n in range(29):
        if n < moves:
            leaving = "ABC"[n % 3] if n // 3 % 2 == 0 else "abc"[n % 3]
            for name, peer in lab.peers.items():
                peer.service._control.draining = name == leaving
            lab.peers[leaving].service.drain()
        lab.do(step_all(n + 1, n + 6, n + 7))
        lab.do(asyncio.sleep(0.1))
    for session in sessions:
        session.close()
    return outputs


def test_twenty_moves_under_four_sessions_change_nothing_and_compute_nothing_again() -> None:
    with Lab() as undisturbed:
        serve_twice(undisturbed)
        expected = run_four_sessions(undisturbed, 0)
    with Lab() as lab:
        serve_twice(lab)
        found = run_four_sessions(lab, 20)
        check_moved(lab, 20 * 4)
        assert computed(lab) == dict.fromkeys("ABC", 4 * 35)
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(torch.cat(one, dim=1), torch.cat(other, dim=1))
