"""Sessions that begin with what an ended one has left in the caches of its hops."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from swarm.core.config import PeerLimits
from swarm.core.prefix_index import BLOCK_TOKENS
from swarm.core.span import Span
from swarm.shards.step import Step, StepTensors
from swarm.wire.control_messages import Open
from swarm.wire.message import Message
from swarm.wire.step_messages import StepMessage
from tests.in_process import Lab, serve_twice
from tests.shard_lab import hidden, left_padded, prompt

pytestmark = pytest.mark.slow

SPANS = {"A": (0, 2), "B": (2, 4), "C": (4, 6)}
LONG = prompt(200)


def serve(lab: Lab, **options: Any) -> None:
    for name, (start, end) in SPANS.items():
        lab.serve(name, start, end, **options)


def computed(lab: Lab) -> list[int]:
    """Token rows that each hop has computed so far."""
    return [lab.peers[name].service.load.computed_tokens for name in SPANS]


def cost_of(lab: Lab, **arguments: Any) -> list[int]:
    """What a generation makes each hop compute; its tokens must be the local model's."""
    before = computed(lab)
    lab.check_exact(**arguments)
    return [after - was for was, after in zip(before, computed(lab), strict=True)]


def test_a_prompt_that_was_there_before_is_computed_from_its_last_full_block_on() -> None:
    with Lab() as lab:
        serve(lab)
        assert cost_of(lab, input_ids=LONG) == [209] * 3
        assert lab.stats.reused_tokens == 0
        assert cost_of(lab, input_ids=LONG) == [209 - 192] * 3
        assert lab.stats.reused_tokens == 192


def test_a_prompt_of_full_blocks_is_computed_for_its_last_position() -> None:
    with Lab() as lab:
        serve(lab)
        cost_of(lab, input_ids=LONG[:, :128])
        assert cost_of(lab, input_ids=LONG[:, :128], max_new_tokens=1) == [1] * 3


def test_a_prompt_that_begins_alike_reuses_the_blocks_before_the_first_difference() -> None:
    with Lab() as lab:
        serve(lab)
        cost_of(lab, input_ids=LONG)
        other = LONG.clone()
        other[0, 150] = (other[0, 150] - 3 + 1) % 100 + 3
        assert cost_of(lab, input_ids=other, max_new_tokens=1) == [200 - 128] * 3
        first = torch.cat([other[:, 150:151], LONG[:, 1:]], dim=1)
        assert cost_of(lab, input_ids=first, max_new_tokens=1) == [200] * 3


def test_a_conversation_goes_on_from_the_text_that_was_generated() -> None:
    with Lab() as lab:
        serve(lab)
        turn = LONG[:, :100]
        length = 0
        for _ in range(3):
            reused = length // BLOCK_TOKENS * BLOCK_TOKENS
            tokens = torch.tensor(lab.local(input_ids=turn, max_new_tokens=30))
            assert cost_of(lab, input_ids=turn, max_new_tokens=30) == [turn.shape[1] + 29 - reused] * 3
            length = tokens.shape[1] - 1
            turn = torch.cat([tokens, prompt(9, seed=5)], dim=1)
        assert len(lab.peers["A"].service.sessions.prefixes) == 1, "a longer text replaces what it continues"


def rename_client(lab: Lab, name: str) -> None:
    """To its peers the lab's client is another one from now on."""
    for peer in lab.peers.values():
        for link in peer.node.links():
            if link.peer_id == "cLient":
                link.peer_id = name


@pytest.mark.parametrize(("shares", "reused"), [(False, 0), (True, 192)])
def test_what_another_client_left_is_used_only_where_the_operator_shares_it(
    shares: bool, reused: int
) -> None:
    with Lab() as lab:
        serve(lab, limits=PeerLimits(share_prefixes=shares))
        cost_of(lab, input_ids=LONG)
        rename_client(lab, "cLientTwo")
        assert cost_of(lab, input_ids=LONG) == [209 - reused] * 3


def test_a_peer_that_keeps_nothing_computes_everything() -> None:
    with Lab() as lab:
        serve(lab, limits=PeerLimits(kept_prefixes=0))
        for _ in range(2):
            assert cost_of(lab, input_ids=LONG) == [209] * 3


def test_the_chain_reuses_what_all_of_its_hops_have() -> None:
    with Lab() as lab:
        serve(lab)
        cost_of(lab, input_ids=LONG)
        lab.peers["B"].service.sessions.prefixes.clear()
        assert cost_of(lab, input_ids=LONG) == [209] * 3
        assert lab.stats.reused_tokens == 0


def test_hops_that_have_more_than_others_roll_back() -> None:
    with Lab() as lab:
        serve(lab)
        lab.check_exact(input_ids=LONG)
        lab.peers["B"].service.sessions.prefixes.clear()
        lab.check_exact(input_ids=LONG[:, :130])
        assert cost_of(lab, input_ids=LONG) == [209 - 128] * 3


def test_what_is_kept_makes_room_for_sessions() -> None:
    with Lab() as lab:
        serve(lab, cache_tokens=448)
        cost_of(lab, input_ids=LONG)
        assert lab.peers["A"].pool.free_tokens == 448 - 256
        assert lab.peers["A"].service.load.free_tokens == 448
        other = prompt(240, seed=9)
        assert cost_of(lab, input_ids=other, max_new_tokens=12) == [251] * 3
        kept = lab.peers["A"].service.sessions.prefixes
        assert len(kept) == 1, "the older one had to go"
        assert cost_of(lab, input_ids=LONG) == [209] * 3


def test_what_is_kept_is_forgotten_after_the_idle_time() -> None:
    with Lab() as lab:
        serve(lab, limits=PeerLimits(idle_session_s=20.0))
        cost_of(lab, input_ids=LONG)
        lab.do(asyncio.sleep(40.0))
        assert len(lab.peers["A"].service.sessions.prefixes) == 0
        assert lab.peers["A"].pool.free_tokens == lab.peers["A"].pool.total_tokens


def test_the_chain_that_holds_the_prompt_is_chosen_while_it_can_be_used() -> None:
    with Lab() as lab:
        serve(lab)
        lab.check_exact(input_ids=LONG)
        load = lab.serve("b", 2, 4, cost=0.0001).service
        lab.check_exact(input_ids=prompt(70, seed=8))
        assert load.load.computed_tokens == 79, "another prompt takes the cheapest chain"
        assert cost_of(lab, input_ids=LONG) == [17] * 3
        lab.do(lab.kill("B"))
        lab.check_exact(input_ids=LONG)
        assert load.load.computed_tokens == 79 + 209


def test_a_chain_that_spares_little_is_not_preferred() -> None:
    with Lab() as lab:
        serve(lab)
        lab.check_exact(input_ids=LONG)
        faster = lab.serve("b", 2, 4, cost=0.0001).service
        other = torch.cat([LONG[:, :64], prompt(150, seed=8)], dim=1)
        lab.check_exact(input_ids=other)
        assert faster.load.computed_tokens == 214 + 9


@pytest.mark.parametrize("victims", ["A", "B", "C", "AC", "ABC"])
def test_a_session_that_began_with_a_prefix_survives_its_hops(victims: str) -> None:
    with Lab() as lab:
        serve_twice(lab)
        lab.check_exact(input_ids=LONG)
        lab.before_call[lab.calls + 4] = lambda: lab.kill(*victims)
        lab.check_exact(input_ids=LONG)
        assert lab.stats.reused_tokens == 192
        assert lab.stats.failovers >= 1


@pytest.mark.parametrize("victim", ["A", "B", "C"])
@pytest.mark.parametrize("kind", [Open, StepMessage])
def test_a_hop_that_dies_while_a_session_begins_is_replaced(victim: str, kind: type[Message]) -> None:
    with Lab() as lab:
        serve_twice(lab)
        lab.check_exact(input_ids=LONG)
        happened: list[str] = []

        def die(source: str, sink: str, message: Message) -> int:
            if sink == victim and isinstance(message, kind) and not happened:
                happened.append(source)
                lab.tasks.create_task(lab.kill(victim))
                return 0
            return 1

        lab.meadow.fate = die
        lab.check_exact(input_ids=LONG)
        assert happened


@pytest.mark.parametrize("liar", ["A", "B", "C"])
def test_a_hop_that_has_lost_what_it_promised_costs_time_but_no_token(liar: str) -> None:
    with Lab() as lab:
        serve_twice(lab)
        lab.check_exact(input_ids=LONG)

        def forget(source: str, sink: str, message: Message) -> int:
            if sink == liar and isinstance(message, StepMessage) and message.start == 192:
                for session in lab.peers[liar].service.sessions:
                    session.promised = session.shard.length = 0
                lab.meadow.fate = lambda *_: 1
            return 1

        lab.meadow.fate = forget
        lab.check_exact(input_ids=LONG)


def test_what_does_not_fit_is_computed_from_the_start() -> None:
    with Lab() as lab:
        serve(lab)
        lab.check_exact(input_ids=LONG)
        store = lab.peers["B"].service.sessions.prefixes
        found = store.find("cLient", Span(2, 4), lab.sessions[0].chain._prefix(), lab.loop.time())
        assert found is not None
        found[0].rows = 2
        lab.check_exact(input_ids=LONG)
        assert lab.stats.reused_tokens == 0


def test_another_prompt_after_an_interrupted_one_does_not_begin_with_its_prefix() -> None:
    past, other = StepTensors(hidden(200)), StepTensors(hidden(200, seed=8))
    with Lab() as lab:
        serve(lab)
        expected = lab.open(max_tokens=256).step(Step(0, 0, other), keep_last=1)
        first = lab.open(max_tokens=256)
        first.step(Step(0, 0, past), keep_last=1)
        first.close()
        second = lab.open(max_tokens=256)
        lab.meadow.fate = lambda source, sink, message: int(not isinstance(message, StepMessage))
        task = lab.tasks.create_task(second.chain.step(Step(0, 0, past), 1))
        lab.settle()
        assert second.chain._resend_from == 192
        task.cancel()
        lab.settle()
        lab.meadow.fate = lambda source, sink, message: 1
        assert torch.allclose(second.step(Step(1, 0, other), keep_last=1), expected, atol=1e-5)
        second.close()


WAYS: dict[str, Callable[[], dict[str, Any]]] = {
    "beams": lambda: {"input_ids": LONG, "num_beams": 3},
    "batch": lambda: {"input_ids": _rows(LONG)},
    "padded": lambda: left_padded((200, 90)),
    "padded row": lambda: _second_row(left_padded((200, 90))),
}


def _rows(ids: Tensor) -> Tensor:
    return torch.cat([ids, ids.flip(1)])


def _second_row(batch: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor[1:] for name, tensor in batch.items()}


@pytest.mark.parametrize("way", WAYS)
def test_several_rows_and_padding_are_neither_kept_nor_reused(way: str) -> None:
    with Lab() as lab:
        serve(lab)
        lab.check_exact(input_ids=LONG)
        for _ in range(2):
            lab.check_exact(**WAYS[way]())
        assert lab.stats.reused_tokens == 0
        assert len(lab.peers["A"].service.sessions.prefixes) == 1


@pytest.mark.parametrize("kind", ["gpt2", "gemma2", "qwen3_next"])
def test_other_architectures_reuse_exactly_or_not_at_all(kind: str) -> None:
    with Lab(kind) as lab:
        serve(lab)
        for _ in range(2):
            lab.check_exact(input_ids=LONG)
        assert lab.stats.reused_tokens == (192 if kind == "gpt2" else 0)


@pytest.mark.parametrize(("cost", "goes_back"), [(0.002, True), (0.5, False)])
def test_a_prompt_goes_back_to_a_peer_that_has_become_slow_only_if_computing_it_elsewhere_costs_more(
    cost: float, goes_back: bool
) -> None:
    with Lab() as lab:
        serve(lab)
        lab.check_exact(input_ids=LONG)
        lab.serve("b", 2, 4, cost=0.0012)
        lab.peers["B"].cost = cost
        lab.pass_time(1.0)
        lab.check_exact(input_ids=LONG)
        assert (lab.stats.reused_tokens > 0) is goes_back
