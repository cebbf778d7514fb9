"""A client's way into the swarm: in the background, and without imports that could meet those of the main thread."""

from __future__ import annotations

import subprocess
import sys

import pytest

from swarm.client.entrance import Entrance, WantedModel
from swarm.core.config import ClientConfig
from swarm.core.errors import ConfigError, NodeError, SwarmUnavailable
from tests.conftest import SwarmFactory

UNKNOWN = WantedModel("0" * 32, "no-such-model")
NOBODY = "/ip4/127.0.0.1/tcp/1/p2p/12D3KooWQztxKw33Qy4U9WZnXuc3SDS4UBB7AAvLu6P9c1GEeHBu"

# a fresh process: prints the modules that are looked for outside of the main thread until the first token is there
SCRIPT = """
import sys, threading

class Watcher:
    def find_spec(self, name, path, target=None):
        if threading.current_thread() is not threading.main_thread():
            print("imported beside the main thread:", name)

sys.meta_path.insert(0, Watcher())
from swarm import SwarmModel
assert "torch" not in sys.modules
with SwarmModel.from_pretrained("demo", peers=sys.argv[1:]) as model:
    import torch
    model.generate(torch.tensor([[5, 6, 7]]), attention_mask=torch.ones(1, 3, dtype=torch.long), max_new_tokens=1)
    print(model.stats.steps)
"""


@pytest.mark.parametrize("peers", [(), ("nonsense",)])
def test_wrong_addresses_are_refused_before_anything_is_started(peers: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError):
        Entrance(UNKNOWN, peers, ClientConfig())


@pytest.mark.slow
@pytest.mark.network
def test_whoever_closes_it_on_the_way_leaves_nothing_behind() -> None:
    entrance = Entrance(UNKNOWN, (NOBODY,), ClientConfig())
    entrance.close()
    entrance.close()
    with pytest.raises(NodeError):
        entrance.arrive()


@pytest.mark.slow
@pytest.mark.network
def test_a_swarm_without_the_model_is_told_once_it_is_waited_for(swarm_factory: SwarmFactory) -> None:
    swarm = swarm_factory()
    swarm.bootstrap()
    entrance = Entrance(UNKNOWN, tuple(swarm.addresses), ClientConfig())
    try:
        with pytest.raises(SwarmUnavailable, match="no peer of this swarm serves no-such-model"):
            entrance.arrive()
    finally:
        entrance.close()


@pytest.mark.slow
@pytest.mark.network
def test_nothing_is_imported_beside_the_main_thread(swarm_factory: SwarmFactory) -> None:
    swarm = swarm_factory()
    swarm.serve("demo", "0:8")
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, *swarm.addresses], check=True, capture_output=True, text=True
    )
    assert done.stdout.split() == ["1"]
