"""Peers that live but do not do what they should: they forget, are full, lie, or are too few."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from swarm.core.config import ClientConfig
from swarm.core.errors import RequestError, SwarmUnavailable
from swarm.shards.step import Step, StepTensors
from swarm.wire.control_messages import Close, Open, Replay
from swarm.wire.message import Message
from swarm.wire.step_messages import Output, StepFailed, StepMessage
from tests.in_process import Lab, Options, serve_twice
from tests.shard_lab import hidden, prompt

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("victim", ["A", "B", "C"])
def test_a_peer_that_forgot_the_session_is_given_it_again(victim: str) -> None:
    with Lab() as lab:
        for name, start in (("A", 0), ("B", 2), ("C", 4)):
            lab.serve(name, start, start + 2)
        lab.before_call[4] = lambda: _forget(lab, victim)
        lab.check_exact(input_ids=prompt())
        assert lab.loop.time() == 1000.0, "a restarted peer is not avoided"


def test_a_peer_that_forgets_every_session_is_avoided() -> None:
    with Lab() as lab:
        serve_twice(lab)

        def forgets(source: str, sink: str, message: Message) -> int:
            if sink == "B" and isinstance(message, StepMessage):
                lab.tasks.create_task(_forget(lab, "B"))
            return 1

        lab.meadow.fate = forgets
        lab.check_exact(input_ids=prompt())


def test_with_no_other_peer_a_hop_that_always_forgets_ends_in_a_clear_error() -> None:
    with Lab(options=Options(ClientConfig(step_timeout_s=20, unavailable_timeout_s=30))) as lab:
        lab.serve("A", 0, 6)

        def forgets(source: str, sink: str, message: Message) -> int:
            if isinstance(message, StepMessage):
                lab.tasks.create_task(_forget(lab, "A"))
            return 1

        lab.meadow.fate = forgets
        with pytest.raises(SwarmUnavailable, match=r"layers 0:6.*avoided after failures"):
            lab.generate(input_ids=prompt())


def test_a_session_that_outgrows_its_peer_moves_to_another_one() -> None:
    with Lab() as lab:
        lab.serve("A", 0, 3, cache_tokens=192)
        lab.serve("a", 0, 3, cost=0.1)
        lab.serve("B", 3, 6)
        cache = lab.model.__dict__["remote_layers"].new_cache(max_tokens=60)
        arguments = {"input_ids": prompt(40), "max_new_tokens": 40, "use_cache": True}
        other = lab.open(max_tokens=100)
        other.step(Step(0, 0, StepTensors(hidden(1))), keep_last=1)
        assert lab.generate(past_key_values=cache, **arguments) == lab.local(**arguments)
        opened = [sink for _, sink, m in lab.meadow.log if isinstance(m, Open)]
        assert opened == ["A", "B", "A", "B", "a"]


def test_without_a_replica_the_session_waits_and_can_be_resumed_after_the_deadline() -> None:
    with Lab(options=Options(ClientConfig(unavailable_timeout_s=20))) as lab:
        lab.serve("A", 0, 3)
        lab.serve("B", 3, 6)
        cache = lab.model.__dict__["remote_layers"].new_cache(max_tokens=40)
        first = lab.model(input_ids=prompt(), past_key_values=cache)
        lab.do(lab.kill("B"))
        with pytest.raises(SwarmUnavailable, match="layers 3:6"):
            lab.model(input_ids=prompt(1), past_key_values=cache)
        assert lab.loop.time() >= 1020
        lab.serve("b", 3, 6)
        second = lab.model(input_ids=prompt(1), past_key_values=cache)
        assert first.logits.shape[0] == second.logits.shape[0] == 1
        assert lab.stats.replayed_tokens >= 11, "the first peer still has its cache"
        cache.close()
        lab.settle()


def test_answers_of_older_steps_and_strangers_are_ignored() -> None:
    with Lab() as lab:
        serve_twice(lab)

        async def disturb() -> None:
            hop = lab.sessions[-1].chain.hops[-1]
            link = next(link for link in lab.client.links() if link.peer_id == "a")
            old = next(m for _, sink, m in lab.meadow.log if sink == "cLient" and isinstance(m, Output))
            for late in (
                StepFailed(session=hop.session, number=0, kind="internal", message="late"),
                StepFailed(session=b"x" * 16, number=4, kind="internal", message="of nobody"),
                old,
            ):
                lab.inbox.handle(hop.link, late, memoryview(b""))
                lab.inbox.handle(link, late, memoryview(b""))

        lab.do(lab.client.connect("a"))
        lab.before_call[5] = disturb
        lab.check_exact(input_ids=prompt())
        assert lab.stats.failovers == 0


@pytest.mark.parametrize(
    "spoil",
    [
        None,
        {"name": "logits"},
        {"dtype": "int64"},
        {"shape": [1, 1, 31]},
        {"shape": [2, 1, 16]},
    ],
    ids=str,
)
def test_an_output_that_is_not_what_was_asked_for_is_not_believed(spoil: dict[str, Any] | None) -> None:
    """The peer is avoided, and another one serves the same layers."""
    with Lab() as lab:
        handle = lab.inbox.handle

        def spoiled(link: Any, message: Message, payload: memoryview) -> None:
            if isinstance(message, Output) and link.peer_id == "C" and message.number == 3:
                tensors = [] if spoil is None else [replace(message.tensors[0], **spoil)]
                message = replace(message, tensors=tensors)
            handle(link, message, payload)

        lab.client.handler = spoiled
        serve_twice(lab)
        lab.check_exact(input_ids=prompt())
        assert "c" in {sink for _, sink, m in lab.meadow.log if isinstance(m, Open)}


def test_a_request_that_can_never_work_is_not_tried_again() -> None:
    with Lab() as lab:
        lab.serve("A", 0, 6, cache_tokens=128)
        with pytest.raises(RequestError, match="largest cache"):
            lab.generate(input_ids=prompt(100), max_new_tokens=100)
        assert not any(isinstance(m, Open | Replay | Close) for _, _, m in lab.meadow.log)


@pytest.mark.parametrize(
    "step",
    [
        Step(0, 0, StepTensors(hidden(1, rows=1025)), tuple(range(1025))),
        Step(0, 1 << 24, StepTensors(hidden(1))),
        Step(0, 0, StepTensors(hidden(1)[:, :0])),
    ],
    ids=["too many rows to select from", "too far", "no tokens"],
)
def test_a_step_that_no_message_can_say_is_refused_before_anything_is_sent(step: Step) -> None:
    with Lab() as lab:
        lab.serve("A", 0, 6)
        session = lab.open(max_tokens=1)
        with pytest.raises(RequestError):
            session.step(step, keep_last=1)
        assert not any(isinstance(m, Open) for _, _, m in lab.meadow.log)


async def _forget(lab: Lab, name: str) -> None:
    """What a restart does, without losing the link."""
    service = lab.peers[name].service
    for session in service.sessions:
        service._stepping.end(session)
