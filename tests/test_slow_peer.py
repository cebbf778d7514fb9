"""A real peer that gets slow loses its sessions to others within seconds, and gets them back when those get slow."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from swarm import SwarmModel
from swarm.builtin import demo_path
from tests.conftest import SwarmFactory
from tests.generation import generate
from tests.peers import PeerProcess

pytestmark = [pytest.mark.slow, pytest.mark.network]
OPTIONS = ("--threads", "1", "--cache-tokens", "4096")
STOPPED_S, RUNNING_S = (
    0.04,
    0.002,
)  # shorter than a step and its messages take, so that most steps are interrupted
DEADLINE_S = 120.0
NEW_TOKENS = 24


@contextmanager
def slowed(peer: PeerProcess) -> Iterator[None]:
    """Meanwhile the peer's process runs for a small part of the time only."""
    over = threading.Event()

    def interrupt() -> None:
        while not over.wait(RUNNING_S):
            peer.suspend()
            over.wait(STOPPED_S)
            peer.resume()

    thread = threading.Thread(target=interrupt)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def test_sessions_go_round_a_peer_that_has_become_slow(swarm_factory: SwarmFactory) -> None:
    swarm = swarm_factory()
    back = swarm.serve("demo", "4:8", *OPTIONS)
    twins = [swarm.serve("demo", "0:4", *OPTIONS) for _ in range(2)]
    torch.set_num_threads(1)
    local: Any = AutoModelForCausalLM.from_pretrained(demo_path())
    expected = generate(local, "greedy", NEW_TOKENS)
    with SwarmModel.from_pretrained("demo", peers=back.addresses) as model:

        def first_hop() -> str:
            found: list[str] = []

            def look() -> None:
                assert model.chain is not None
                found.append(model.chain.hops[0].peer_id)

            assert torch.equal(generate(model, "greedy", NEW_TOKENS, NEW_TOKENS - 1, look), expected)
            return found[0]

        def wait_until_left(peer_id: str) -> None:
            end = time.monotonic() + DEADLINE_S
            while first_hop() == peer_id:
                assert time.monotonic() < end, f"the slow peer still has the sessions: {model.stats}"

        favourite = first_hop()
        first, second = sorted(twins, key=lambda peer: peer.peer_id != favourite)
        with slowed(first):
            wait_until_left(first.peer_id)
        with slowed(second):
            wait_until_left(second.peer_id)
        assert first_hop() == first.peer_id
