"""A real peer gets slow while sessions run: it loses its traffic, no token changes, and it gets traffic back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from swarm.builtin import demo_path
from swarm.client.model import SwarmModel
from swarm.core.errors import ConfigError
from swarm.peer.slowdown import slowdown
from tests.conftest import SwarmFactory
from tests.slow_swarm import SlowSwarm, Way, generate_on
from tests.waiting import wait_for

DEADLINE_S = 90.0
MOST_TOKENS = 1500


@pytest.fixture(scope="module")
def local() -> Any:
    torch.set_num_threads(1)
    return AutoModelForCausalLM.from_pretrained(demo_path())


@pytest.mark.slow
@pytest.mark.network
def test_a_slow_peer_loses_its_traffic_and_gets_it_back(swarm_factory: SwarmFactory, local: Any) -> None:
    peers = SlowSwarm(swarm_factory())
    with SwarmModel.from_pretrained("demo", peers=peers.addresses) as model:

        def is_used(tokens: int = 8) -> bool:
            """Whether a new session ends on the peer; its tokens are the local model's."""
            found = generate_on(model, tokens)
            assert torch.equal(found.tokens, generate_on(local, tokens).tokens)
            return peers.victim.peer_id in found.peers[-1]

        def has_left(way: Way) -> bool:
            return len(way.peers) > 8 and peers.victim.peer_id not in way.peers[-1]

        wait_for(is_used, DEADLINE_S, "the faster peer is used while it is fast")
        found = generate_on(model, MOST_TOKENS, at=(8, peers.slow_down), is_enough=has_left)
        assert torch.equal(found.tokens, generate_on(local, len(found.peers)).tokens)
        assert peers.victim.peer_id in found.peers[7]
        assert peers.victim.peer_id not in found.peers[-1], "the running session stays at the slow peer"
        assert model.stats.replans >= 1
        assert model.stats.failovers == 0

        computed = peers.computed_tokens()
        assert not is_used(), "new sessions go to the slow peer"
        assert peers.computed_tokens() == computed

        peers.speed_up()
        wait_for(is_used, DEADLINE_S, "the peer is used again")
        assert peers.computed_tokens() > computed


def test_no_file_means_no_slowdown(tmp_path: Path) -> None:
    assert slowdown(tmp_path / "none") == 1.0


@pytest.mark.parametrize("text", ["fast", "0.5", "-1", "nan", "inf"])
def test_a_factor_is_a_number_of_at_least_one(tmp_path: Path, text: str) -> None:
    path = tmp_path / "factor"
    path.write_text(text)
    with pytest.raises(ConfigError, match="factor"):
        slowdown(path)
