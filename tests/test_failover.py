"""Peers die, hang or refuse while a model generates: the tokens must be those of the undisturbed local model."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from swarm import ClientConfig, SwarmModel, SwarmUnavailable
from swarm.builtin import demo_path
from tests.conftest import SwarmFactory
from tests.generation import MODES, generate
from tests.peers import LocalSwarm, PeerProcess
from tests.swarm_records import records, wait_all_free
from tests.waiting import wait_for

pytestmark = [pytest.mark.slow, pytest.mark.network]

SPANS = ("0:3", "3:6", "6:8")
NEW_TOKENS = 24
KILL_AT = 9
OPTIONS = ("--threads", "1", "--cache-tokens", "4096")


class TwinSwarm:
    """Two peers for every span; the ones that died are started again when the next test needs them."""

    def __init__(self, swarm: LocalSwarm) -> None:
        self.swarm = swarm
        self.gateway = swarm.bootstrap()
        self._peers: list[PeerProcess] = []

    def complete(self) -> None:
        """Make every span be served twice."""
        self._peers = [peer for peer in self._peers if peer.status is None]
        for span in SPANS:
            for _ in range(2 - sum(str(peer.span) == span for peer in self._peers)):
                self._peers.append(self.serve(span))

    def serve(self, span: str, *options: str) -> PeerProcess:
        return self.swarm.serve("demo", span, *OPTIONS, *options, peers=self.gateway.addresses)

    def by_id(self, peer_id: str) -> PeerProcess:
        return next(peer for peer in self._peers if peer.peer_id == peer_id)

    def computed(self) -> dict[str, int]:
        """Token rows every running peer has computed since its start."""
        return {record.peer_id: record.computed_tokens for record in records(self.gateway.addresses, "demo")}


@pytest.fixture(scope="module")
def twins(zygote: Any) -> Iterator[TwinSwarm]:
    with LocalSwarm(zygote) as swarm:
        yield TwinSwarm(swarm)


@pytest.fixture(scope="module")
def local() -> Any:
    torch.set_num_threads(1)
    return AutoModelForCausalLM.from_pretrained(demo_path())


@pytest.fixture
def model(twins: TwinSwarm) -> Iterator[SwarmModel]:
    twins.complete()
    with SwarmModel.from_pretrained("demo", peers=twins.gateway.addresses) as model:
        yield model


def hop_peers(twins: TwinSwarm, model: SwarmModel, indices: tuple[int, ...]) -> list[PeerProcess]:
    chain = model.chain
    assert chain is not None
    return [twins.by_id(chain.hops[index].peer_id) for index in indices]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("victims", [(0,), (1,), (2,), (0, 2)], ids=["first", "middle", "last", "two"])
def test_killed_hops_change_no_token(
    twins: TwinSwarm, model: SwarmModel, local: Any, mode: str, victims: tuple[int, ...]
) -> None:
    expected = generate(local, mode, NEW_TOKENS)

    def kill() -> None:
        for peer in hop_peers(twins, model, victims):
            peer.kill()

    assert torch.equal(generate(model, mode, NEW_TOKENS, KILL_AT, kill), expected)
    assert model.stats.failovers >= 1
