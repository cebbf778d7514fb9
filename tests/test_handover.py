"""Real peers are asked to leave while a model generates: their sessions go on elsewhere, and nothing is lost."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from swarm import SwarmModel
from tests.conftest import SwarmFactory
from tests.generation import MODES, generate
from tests.peers import PeerProcess
from tests.swarm_records import wait_all_free
from tests.test_failover import OPTIONS, TwinSwarm, hop_peers, local, model, twins
from tests.waiting import wait_for

pytestmark = [pytest.mark.slow, pytest.mark.network]
__all__ = ["local", "model", "twins"]  # fixtures

NEW_TOKENS = 24
LEAVE_AT = 9


@pytest.mark.parametrize("mode", MODES)
def test_a_hop_that_is_asked_to_leave_hands_its_session_over(
    twins: TwinSwarm, model: SwarmModel, local: Any, mode: str
) -> None:
    before = twins.computed()
    left: list[PeerProcess] = []

    def leave() -> None:
        left.extend(hop_peers(twins, model, (1,)))
        left[0].terminate()
        wait_for(lambda: model.stats.handovers == 1, 20.0, "the hop is handed over")

    sequences = generate(model, mode, NEW_TOKENS, LEAVE_AT, leave)
    assert torch.equal(sequences, generate(local, mode, NEW_TOKENS))
    assert (model.stats.handovers, model.stats.failovers, model.stats.replayed_tokens) == (1, 0, 0)
    assert left[0].wait(20.0) == 0

    def spent() -> dict[str, int]:
        now = twins.computed()
        return {peer: now[peer] - before[peer] for peer in now if peer in before and now[peer] > before[peer]}

    def is_each_token_computed_once() -> bool:
        found = spent()
        others = sorted(count for peer, count in found.items() if peer != left[0].peer_id)
        return len(others) == 3 and others[1] == others[2] == others[0] + found.get(left[0].peer_id, 0)

    wait_for(is_each_token_computed_once, 15.0, "leaver and replacement announce what one survivor does")


def test_all_hops_may_leave_at_once(twins: TwinSwarm, model: SwarmModel, local: Any) -> None:
    left: list[PeerProcess] = []

    def leave() -> None:
        left.extend(hop_peers(twins, model, (0, 1, 2)))
        for peer in left:
            peer.terminate()
        wait_for(lambda: model.stats.handovers == 3, 20.0, "all hops are handed over")

    expected = generate(local, "greedy", NEW_TOKENS)
    assert torch.equal(generate(model, "greedy", NEW_TOKENS, LEAVE_AT, leave), expected)
    assert (model.stats.handovers, model.stats.failovers) == (3, 0)
    assert [peer.wait(20.0) for peer in left] == [0, 0, 0]


def test_all_cache_is_free_again_after_all_this(twins: TwinSwarm) -> None:
    twins.complete()
    assert wait_all_free(twins.gateway.addresses)


def test_a_peer_without_replacement_serves_its_session_to_the_end(
    swarm_factory: SwarmFactory, local: Any
) -> None:
    swarm = swarm_factory()
    first, second = swarm.serve("demo", "0:4", *OPTIONS), swarm.serve("demo", "4:8", *OPTIONS)
    expected = generate(local, "greedy", NEW_TOKENS)
    with SwarmModel.from_pretrained("demo", peers=first.addresses) as model:
        assert torch.equal(generate(model, "greedy", NEW_TOKENS, LEAVE_AT, second.terminate), expected)
        assert (model.stats.handovers, model.stats.failovers) == (0, 0)
        assert second.wait(20.0) == 0
