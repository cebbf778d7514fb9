"""Whole swarms whose activations travel as int8: the tokens of an undisturbed run, and nothing travels otherwise."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from msgspec import structs

from swarm.core.config import ClientConfig
from swarm.core.errors import SwarmUnavailable
from swarm.wire.control_messages import Open
from swarm.wire.message import Message
from swarm.wire.step_messages import Output, StepFailed, StepMessage
from swarm.wire.tensors import pack
from tests.callers import Caller, states
from tests.in_process import Lab, Options, serve_twice
from tests.shard_lab import left_padded, prompt

pytestmark = pytest.mark.slow

CONFIG = ClientConfig(step_timeout_s=20.0, open_timeout_s=10.0, wire="int8")
INT8 = Options(CONFIG)
WAYS: dict[str, dict[str, Any]] = {
    "greedy": {"input_ids": prompt(), "max_new_tokens": 24},
    "sampling": {"input_ids": prompt(), "do_sample": True},
    "batch": left_padded(),
    "beams": {"input_ids": prompt(), "num_beams": 3},
    "lookup": {"input_ids": prompt(6).repeat(1, 3), "prompt_lookup_num_tokens": 3},
}
Disturbance = Callable[[Lab], None]


def tokens(
    disturb: Disturbance = lambda lab: None,
    model_type: str = "llama",
    options: Options = INT8,
    **arguments: Any,
) -> list[list[int]]:
    """What a swarm of two peers for each span generates."""
    with Lab(model_type, options) as lab:
        serve_twice(lab)
        disturb(lab)
        found = lab.generate(**arguments)
        for peer in lab.peers.values():
            peer.pool.check()
        return found


def deaths(*victims: str, call: int = 4) -> Disturbance:
    def disturb(lab: Lab) -> None:
        lab.before_call[call] = lambda: lab.kill(*victims)

    return disturb


def wall(source: str, sink: str, call: int) -> Disturbance:
    def disturb(lab: Lab) -> None:
        lab.before_call[call] = lambda: lab.meadow.wall(source, sink)

    return disturb


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("victims", ["A", "B", "C", "AC", "ABC"])
def test_hops_that_die_change_no_token(victims: str, way: str) -> None:
    assert tokens(deaths(*victims), **WAYS[way]) == tokens(**WAYS[way])


@pytest.mark.parametrize("model_type", ["qwen3_next", "mistral"])
def test_recurrent_and_sliding_layers_lose_no_token(model_type: str) -> None:
    arguments: dict[str, Any] = {"model_type": model_type, "input_ids": prompt()}
    assert tokens(deaths("B"), **arguments) == tokens(**arguments)


@pytest.mark.parametrize("edge", [("cLient", "A"), ("A", "B"), ("C", "cLient")])
@pytest.mark.parametrize("times", [0, 2], ids=["lost", "doubled"])
def test_steps_that_are_sent_again_change_no_token(edge: tuple[str, str], times: int) -> None:
    seen: list[int] = []

    def fate(source: str, sink: str, message: Message) -> int:
        if (source, sink) == edge and isinstance(message, StepMessage | Output):
            seen.append(1)
            return times if len(seen) == 4 else 1
        return 1

    def disturb(lab: Lab) -> None:
        lab.meadow.fate = fate

    assert tokens(disturb, **WAYS["greedy"]) == tokens(**WAYS["greedy"])
    assert len(seen) > 4


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(("edge", "call"), [(("A", "B"), 1), (("B", "C"), 4)])
def test_edges_that_the_client_carries_change_no_token(edge: tuple[str, str], call: int, way: str) -> None:
    assert tokens(wall(*edge, call), **WAYS[way]) == tokens(**WAYS[way])


@pytest.mark.parametrize("size", [1, 4, 7])
def test_a_prompt_in_pieces_gives_the_tokens_of_the_whole_one(size: int) -> None:
    pieces = Options(CONFIG, chunk_bytes=size * 32 * 4)
    arguments: dict[str, Any] = {"input_ids": prompt(24, rows=2)}
    assert tokens(options=pieces, **arguments) == tokens(**arguments)


@pytest.mark.parametrize("seed", range(8))
def test_random_deaths_in_the_middle_of_pieces_change_no_token(seed: int) -> None:
    dice = random.Random(seed)
    pieces = Options(CONFIG, chunk_bytes=dice.choice([1, 3, 5]) * 32 * 4)
    deadlines = {name: dice.randrange(1, 14) for name in dice.sample("ABC", dice.randint(1, 3))}

    def disturb(lab: Lab) -> None:
        def fate(source: str, sink: str, message: Message) -> int:
            if isinstance(message, StepMessage | Output | StepFailed) and sink in deadlines:
                deadlines[sink] -= 1
                if deadlines[sink] == 0:
                    lab.tasks.create_task(lab.kill(sink))
                    return dice.choice([0, 1])
            return 1

        lab.meadow.fate = fate

    arguments: dict[str, Any] = {"input_ids": prompt(21, rows=dice.choice([1, 2])), "max_new_tokens": 6}
    assert tokens(disturb, options=pieces, **arguments) == tokens(**arguments)


def test_a_prompt_that_was_there_before_gives_the_same_tokens() -> None:
    arguments: dict[str, Any] = {"input_ids": prompt(200)}
    with Lab(options=INT8) as lab:
        serve_twice(lab)
        assert lab.generate(**arguments) == lab.generate(**arguments)
        assert lab.stats.reused_tokens == 192


@pytest.mark.parametrize(("wire", "coding"), [("model", None), ("int8", "int8")])
def test_everything_travels_as_agreed_also_in_a_replay_and_over_carried_edges(
    wire: Any, coding: str | None
) -> None:
    with Lab(options=Options(replace(CONFIG, wire=wire))) as lab:
        serve_twice(lab)
        lab.do(lab.meadow.wall("B", "C"))
        lab.before_call[3] = lambda: lab.kill("A")
        lab.generate(**left_padded())
        opened = [m.coding for _, _, m in lab.meadow.log if isinstance(m, Open)]
        sent = [m for _, _, m in lab.meadow.log if isinstance(m, StepMessage | Output)]
        found = {(meta.name, meta.coding) for m in sent for meta in m.tensors}
        assert set(opened) == {coding}
        assert found == {("hidden", coding), ("mask", None), ("positions", None)}
        assert any(isinstance(m, StepMessage) and m.replay is not None for m in sent)


def test_peers_that_do_not_know_int8_are_avoided() -> None:
    with Lab(options=INT8) as lab:
        serve_twice(lab)
        lab.peers["B"].codings = ()
        lab.do(lab.shared.navigator.refresh())
        lab.do(lab.open().chain.close())
        lab.generate(input_ids=prompt())
        assert {sink for _, sink, m in lab.meadow.log if isinstance(m, Open)} == {"A", "b", "C"}


def test_where_only_peers_serve_that_do_not_know_int8_the_client_says_so() -> None:
    with Lab(options=Options(replace(CONFIG, unavailable_timeout_s=5.0))) as lab:
        lab.serve("A", 0, 3)
        lab.serve("B", 3, 6).codings = ()
        lab.do(lab.shared.navigator.refresh())
        with pytest.raises(SwarmUnavailable, match="layers 3:6: 1 peer, without int8 on the wire"):
            lab.generate(input_ids=prompt())
        assert not any(isinstance(m, Open) for _, _, m in lab.meadow.log)


def test_a_client_that_asks_for_nothing_uses_peers_that_do_not_know_int8() -> None:
    with Lab() as lab:
        lab.serve("A", 0, 6).codings = ()
        lab.do(lab.shared.navigator.refresh())
        lab.check_exact(input_ids=prompt())


@pytest.mark.parametrize(("agreed", "sent"), [(None, "int8"), ("int8", None)])
def test_a_step_that_is_coded_otherwise_than_agreed_is_refused(agreed: Any, sent: Any) -> None:
    with Lab() as lab:
        lab.serve("A", 0, 6)
        caller = Caller(lab, "User")
        caller.open(coding=agreed)
        metas, payload = pack({"hidden": states()}, sent)
        message = StepMessage(session=b"s" * 16, number=0, start=0, tensors=metas)
        answer = caller.send_message(message, payload)
        assert isinstance(answer, StepFailed)
        assert (answer.kind, "agreed was" in answer.message) == ("incompatible", True)


def test_an_answer_that_is_coded_otherwise_than_agreed_is_not_believed() -> None:
    with Lab(options=INT8) as lab:
        deliver = lab.inbox.handle

        def plain(link: Any, message: Message, payload: memoryview) -> None:
            if isinstance(message, Output) and link.peer_id == "C" and message.number == 3:
                [meta] = message.tensors
                other = structs.replace(meta, coding=None)
                message = structs.replace(message, tensors=[other])
                payload = memoryview(bytearray(4 * meta.shape[-1]))
            deliver(link, message, payload)

        lab.client.handler = plain
        serve_twice(lab)
        assert lab.generate(input_ids=prompt()) == tokens(input_ids=prompt())
        assert "c" in {sink for _, sink, m in lab.meadow.log if isinstance(m, Open)}


def test_a_prefix_is_not_reused_by_sessions_of_another_coding() -> None:
    arguments: dict[str, Any] = {"input_ids": prompt(200)}
    with Lab(options=INT8) as lab:
        serve_twice(lab)
        lab.generate(**arguments)
        lab.shared = replace(lab.shared, config=replace(CONFIG, wire="model"))
        lab.inbox._coding = None
        assert lab.generate(**arguments) == lab.local(**arguments)
        assert lab.stats.reused_tokens == 0
