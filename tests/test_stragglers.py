"""A peer gets slow in the middle of a session: others are preferred within seconds, and it is tried again later."""

from __future__ import annotations

import pytest

from swarm.client.wish import ChainWish
from swarm.core.span import Span
from swarm.routing.chain import Chain
from swarm.routing.observed import FIRST_FADE_S, HOLD_S
from tests.in_process import Lab
from tests.shard_lab import prompt
from tests.zoo import LAYERS

pytestmark = pytest.mark.slow


def chosen(lab: Lab) -> list[str]:
    """Peers that new sessions are given once another one has run."""
    lab.generate(input_ids=prompt(), max_new_tokens=3)
    plan = lab.do(_plan(lab))
    return [hop.peer_id for hop in plan.hops]


async def _plan(lab: Lab) -> Chain:
    return lab.shared.navigator.plan(Span(0, LAYERS), ChainWish(tokens=64, dtype="float32"))


def test_new_sessions_avoid_a_peer_that_has_become_slow_and_come_back_to_it() -> None:
    with Lab() as lab:
        lab.serve("A", 0, 3, cost=0.001)
        lab.serve("a", 0, 3, cost=0.002)
        lab.serve("B", 3, 6)
        assert chosen(lab) == ["A", "B"]
        lab.peers["A"].executor.slow_s = 0.2
        began = lab.loop.time()
        while (chain := chosen(lab)) == ["A", "B"]:
            assert lab.loop.time() - began < 5.0, "the slow peer still gets new sessions"
        assert chain == ["a", "B"]
        lab.peers["A"].executor.slow_s = 0.0
        while (chain := chosen(lab)) == ["a", "B"]:
            lab.pass_time(1.0)
            assert lab.loop.time() - began < 5.0 + HOLD_S + FIRST_FADE_S, "the peer never gets sessions again"
        assert chain == ["A", "B"]


def test_a_slow_peer_that_nobody_can_replace_is_used() -> None:
    with Lab() as lab:
        lab.serve("A", 0, 3)
        lab.serve("B", 3, 6)
        lab.peers["A"].executor.slow_s = 0.2
        lab.check_exact(input_ids=prompt())
        assert chosen(lab) == ["A", "B"]
