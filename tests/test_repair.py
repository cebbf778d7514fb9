"""Every way to lose hops and messages in the middle of a generation; the tokens must be the local model's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from swarm.shards.step import Step, StepTensors
from swarm.wire.control_messages import Open
from swarm.wire.message import Message
from swarm.wire.step_messages import Output, Replayed, StepMessage
from tests.in_process import Lab, Options, serve_twice
from tests.shard_lab import hidden, left_padded, prompt

pytestmark = pytest.mark.slow


class Once:
    """A fate that befalls the first message which `matches`: it arrives `times` times, and `then` happens."""

    def __init__(
        self,
        matches: Callable[[str, str, Message], bool],
        times: int = 0,
        then: Callable[[], None] = lambda: None,
    ) -> None:
        self._matches, self._times, self._then = matches, times, then
        self.happened = False

    def __call__(self, source: str, sink: str, message: Message) -> int:
        if self.happened or not self._matches(source, sink, message):
            return 1
        self.happened = True
        self._then()
        return self._times


def decode_step(message: Message) -> bool:
    return isinstance(message, StepMessage) and message.start > 11 and message.replay is None


@pytest.mark.parametrize("victims", ["A", "B", "C", "AB", "BC", "AC", "ABC"])
def test_hops_that_die_between_steps_are_replaced(victims: str) -> None:
    with Lab() as lab:
        serve_twice(lab)
        lab.before_call[4] = lambda: lab.kill(*victims)
        lab.check_exact(input_ids=prompt())
        assert lab.loop.time() == 1000.0, "nobody waited for anything"


@pytest.mark.parametrize(
    "way", [left_padded(), {"input_ids": prompt(), "num_beams": 3}], ids=["batch", "beams"]
)
@pytest.mark.parametrize("victims", ["A", "B", "C", "AC"])
def test_hops_that_die_between_steps_of_batches_and_beams_are_replaced(victims: str, way: Any) -> None:
    with Lab() as lab:
        serve_twice(lab)
        lab.before_call[4] = lambda: lab.kill(*victims)
        lab.check_exact(**way)


@pytest.mark.parametrize("edge", [("cLient", "A"), ("A", "B"), ("B", "C"), ("C", "cLient")])
@pytest.mark.parametrize("times", [0, 2], ids=["lost", "doubled"])
def test_a_message_that_is_lost_or_doubled_changes_nothing(edge: tuple[str, str], times: int) -> None:
    with Lab() as lab:
        serve_twice(lab)
        wanted = Output if edge[1] == "cLient" else StepMessage
        seen: list[int] = []

        def fourth(source: str, sink: str, message: Message) -> bool:
            if (source, sink) == edge and isinstance(message, wanted):
                seen.append(1)
            return len(seen) == 4

        fate = lab.meadow.fate = Once(fourth, times)
        lab.check_exact(input_ids=prompt())
        assert fate.happened
        assert lab.stats.failovers == 0
        assert (lab.loop.time() > 1000.0) == (times == 0), "a lost step is sent again after its deadline"


@pytest.mark.parametrize("victim", ["A", "B", "C"])
def test_a_hop_that_dies_with_a_step_inside_is_replaced(victim: str) -> None:
    with Lab() as lab:
        serve_twice(lab)

        def reaches_victim(source: str, sink: str, message: Message) -> bool:
            return sink == victim and decode_step(message)

        lab.meadow.fate = Once(reaches_victim, 0, lambda: _start(lab, lab.kill(victim)))
        lab.check_exact(input_ids=prompt())


@pytest.mark.parametrize("victim", ["A", "B", "C"])
def test_a_hop_that_hangs_with_its_links_open_is_replaced_after_the_deadline(victim: str) -> None:
    with Lab() as lab:
        serve_twice(lab)

        async def hang() -> None:
            lab.meadow.fate = lambda source, sink, message: int(victim not in (source, sink))

        lab.before_call[4] = hang
        tokens = lab.generate(input_ids=prompt())
        assert tokens == lab.local(input_ids=prompt())
        assert 1000.0 < lab.loop.time() < 1025.0


@pytest.mark.parametrize("dies", ["b", "A", "C"])
def test_another_death_during_the_replay_is_survived(dies: str) -> None:
    """`b` is the replacement, `A` the survivor that replays, `C` the survivor behind the gap."""
    with Lab() as lab:
        serve_twice(lab)
        lab.serve("bb", 2, 4, cost=0.2)
        lab.before_call[4] = lambda: lab.kill("B")

        def replays(source: str, sink: str, message: Message) -> bool:
            return isinstance(message, StepMessage) and message.replay is not None and sink == "b"

        fate = lab.meadow.fate = Once(replays, 0, lambda: _start(lab, lab.kill(dies)))
        lab.check_exact(input_ids=prompt())
        assert fate.happened


def test_a_replacement_at_the_front_that_dies_during_the_clients_own_replay_is_replaced() -> None:
    with Lab() as lab:
        serve_twice(lab)
        lab.serve("aa", 0, 2, cost=0.2)
        lab.before_call[4] = lambda: lab.kill("A")

        def replays(source: str, sink: str, message: Message) -> bool:
            return isinstance(message, StepMessage) and message.replay is not None and sink == "a"

        lab.meadow.fate = Once(replays, 0, lambda: _start(lab, lab.kill("a")))
        lab.check_exact(input_ids=prompt())
        assert "aa" in {sink for _, sink, m in lab.meadow.log if isinstance(m, StepMessage)}


def test_a_lost_report_of_a_replay_ends_in_another_try() -> None:
    with Lab() as lab:
        serve_twice(lab)
        lab.before_call[4] = lambda: lab.kill("B")
        lab.meadow.fate = Once(lambda source, sink, message: isinstance(message, Replayed))
        lab.check_exact(input_ids=prompt())


@pytest.mark.parametrize("victim", ["A", "B", "C"])
@pytest.mark.parametrize("at_piece", [1, 3])
def test_a_prompt_sent_in_pieces_survives_a_death_between_them(victim: str, at_piece: int) -> None:
    with Lab(options=Options(chunk_bytes=4 * 32 * 4)) as lab:
        serve_twice(lab)
        pieces: list[int] = []

        def piece(source: str, sink: str, message: Message) -> bool:
            if sink == "A" and isinstance(message, StepMessage) and message.start < 20:
                pieces.append(message.start)
            return len(pieces) > at_piece

        lab.meadow.fate = Once(piece, 1, lambda: _start(lab, lab.kill(victim)))
        lab.check_exact(input_ids=prompt(20))


@pytest.mark.parametrize("victim", ["A", "B", "C"])
def test_the_past_is_replayed_in_pieces(victim: str) -> None:
    with Lab(options=Options(chunk_bytes=4 * 32 * 4)) as lab:
        serve_twice(lab)
        lab.before_call[6] = lambda: lab.kill(victim)
        lab.check_exact(**left_padded((13, 7)))
        replayed = [m.start for _, _, m in lab.meadow.log if isinstance(m, StepMessage) and m.replay]
        assert len(replayed) > 3


LOOKUP: dict[str, Any] = {"input_ids": prompt(6).repeat(1, 3), "prompt_lookup_num_tokens": 3}


@pytest.mark.parametrize("model_type", ["llama", "gemma2", "gpt2"])
@pytest.mark.parametrize("victim", ["A", "B", "C"])
def test_generation_with_roll_back_survives_a_death(model_type: str, victim: str) -> None:
    with Lab(model_type) as lab:
        serve_twice(lab)
        lab.before_call[5] = lambda: lab.kill(victim)
        lab.check_exact(**LOOKUP)


@pytest.mark.parametrize("victim", ["A", "B", "C", "AC"])
def test_recurrent_models_are_replayed_in_one_piece(victim: str) -> None:
    with Lab("qwen3_next", Options(chunk_bytes=1)) as lab:
        serve_twice(lab)
        lab.before_call[5] = lambda: lab.kill(*victim)
        lab.check_exact(input_ids=prompt())
        replays = [m for _, _, m in lab.meadow.log if isinstance(m, StepMessage) and m.replay]
        assert all(m.replay is not None and m.replay.last and m.start == 0 for m in replays)


def test_recurrent_models_go_back_by_going_through_everything_again_in_the_same_sessions() -> None:
    states = hidden(8)
    with Lab("qwen3_next") as lab:
        serve_twice(lab)
        session = lab.open()
        session.step(Step(0, 0, StepTensors(states[:, :6])), keep_last=1)
        found = session.step(Step(1, 3, StepTensors(states[:, 3:7])), keep_last=1)
        assert sum(isinstance(m, Open) for _, _, m in lab.meadow.log) == 3
        fresh = lab.open()
        expected = fresh.step(Step(0, 0, StepTensors(states[:, :7])), keep_last=1)
        assert torch.allclose(found[:, -1], expected[:, -1], atol=1e-6)


def _start(lab: Lab, work: Any) -> None:
    lab.tasks.create_task(work)
