"""Peers that cannot reach each other: the client carries the edge between them, and nobody can tell from the tokens."""

from __future__ import annotations

from typing import Any

import pytest

from swarm.wire.step_messages import Output, StepMessage
from tests.in_process import Lab
from tests.shard_lab import left_padded, prompt

pytestmark = pytest.mark.slow

WAYS: dict[str, dict[str, Any]] = {
    "greedy": {"input_ids": prompt()},
    "sampling": {"input_ids": prompt(), "do_sample": True},
    "batch": left_padded(),
    "beams": {"input_ids": prompt(), "num_beams": 3},
    "lookup": {"input_ids": prompt(6).repeat(1, 3), "prompt_lookup_num_tokens": 3},
}


def serve_three(lab: Lab) -> None:
    lab.serve("A", 0, 2)
    lab.serve("B", 2, 4)
    lab.serve("C", 4, 6)


@pytest.mark.parametrize("way", WAYS)
def test_both_edges_of_three_hops_are_carried_by_the_client(way: str) -> None:
    with Lab() as lab:
        serve_three(lab)
        lab.do(lab.meadow.wall("A", "B"))
        lab.do(lab.meadow.wall("B", "C"))
        lab.check_exact(**WAYS[way])
        steps = [(source, sink) for source, sink, m in lab.meadow.log if isinstance(m, StepMessage)]
        assert set(steps) == {("cLient", "A"), ("cLient", "B"), ("cLient", "C")}


@pytest.mark.parametrize("way", WAYS)
def test_an_edge_that_breaks_in_the_middle_is_carried_from_then_on(way: str) -> None:
    with Lab() as lab:
        serve_three(lab)
        lab.before_call[4] = lambda: lab.meadow.wall("B", "C")
        lab.check_exact(**WAYS[way])
        assert (lab.stats.failovers, lab.stats.replayed_tokens) == (0, 0), "all caches stay"
        steps = [(source, sink) for source, sink, m in lab.meadow.log if isinstance(m, StepMessage)]
        assert steps[-2:] == [("A", "B"), ("cLient", "C")]


def test_both_edges_may_break_at_different_times() -> None:
    with Lab() as lab:
        serve_three(lab)
        lab.before_call[3] = lambda: lab.meadow.wall("A", "B")
        lab.before_call[6] = lambda: lab.meadow.wall("B", "C")
        lab.check_exact(input_ids=prompt())
        outputs = [source for source, _, m in lab.meadow.log if isinstance(m, Output)]
        assert outputs[-3:] == ["A", "B", "C"]


def test_a_peer_that_dies_behind_a_carried_edge_is_replaced() -> None:
    with Lab() as lab:
        serve_three(lab)
        lab.serve("D", 4, 6, cost=0.1)
        lab.do(lab.meadow.wall("B", "C"))
        lab.before_call[5] = lambda: lab.kill("C")
        lab.check_exact(input_ids=prompt(), num_beams=2)


def test_a_replacement_that_its_neighbour_cannot_reach_is_fed_by_the_client() -> None:
    with Lab() as lab:
        serve_three(lab)
        lab.serve("D", 2, 4, cost=0.1)
        lab.do(lab.meadow.wall("A", "D"))
        lab.before_call[5] = lambda: lab.kill("B")
        lab.check_exact(**left_padded())


def test_an_edge_that_accepts_links_and_then_fails_is_not_used_again() -> None:
    """A link that dies with every step, though dialling works: the client must not build the same chain for ever."""
    with Lab() as lab:
        serve_three(lab)

        def fate(source: str, sink: str, message: Any) -> int:
            if isinstance(message, StepMessage) and (source, sink) == ("A", "B") and message.start > 11:
                lab.tasks.create_task(lab.meadow.nodes["A"].hang_up("B"))
                return 0
            return 1

        lab.meadow.fate = fate
        lab.check_exact(input_ids=prompt())


@pytest.mark.parametrize("call", [1, 4])
def test_a_link_between_peers_that_ends_for_a_moment_is_dialled_again(call: int) -> None:
    with Lab() as lab:
        serve_three(lab)
        lab.before_call[call] = lambda: lab.meadow.nodes["A"].hang_up("B")
        lab.check_exact(input_ids=prompt())
        assert (lab.stats.failovers, lab.stats.replayed_tokens) == (0, 0), "all caches stay"
        assert ("cLient", "B") not in [(s, k) for s, k, m in lab.meadow.log if isinstance(m, StepMessage)]


@pytest.mark.parametrize("peer", ["A", "B", "C"])
def test_a_link_of_the_client_that_ends_for_a_moment_costs_one_hop_its_cache(peer: str) -> None:
    with Lab() as lab:
        serve_three(lab)
        lab.before_call[4] = lambda: lab.client.hang_up(peer)
        lab.check_exact(input_ids=prompt())
        assert lab.stats.replayed_tokens == (14 if peer == "A" else 13), (
            "the client has the new token already"
        )
        assert lab.loop.time() < 1003.0
