"""Eight sessions of mixed kinds generate at once through peers that batch them: each gets its own local tokens."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, StoppingCriteriaList

from swarm import SwarmModel
from swarm.bench.timed import AtToken
from swarm.builtin import demo_path
from tests.peers import LocalSwarm, PeerProcess
from tests.swarm_records import records, wait_all_free

pytestmark = [pytest.mark.slow, pytest.mark.network]

SPANS = ("0:3", "3:8")
NEW_TOKENS = 24
MEET_AT = 9
MEETING_S = 120.0
OPTIONS = ("--threads", "1", "--cache-tokens", "16384")


@dataclass(frozen=True)
class Kind:
    """How one session generates: rows of its batch, their padding, beams, and the length of its prompt."""

    length: int
    rows: int = 1
    padding: int = 0
    beams: int = 1

    def arguments(self, seed: int) -> dict[str, Any]:
        ids = torch.randint(5, 150, (self.rows, self.length), generator=torch.Generator().manual_seed(seed))
        mask = torch.ones_like(ids)
        mask[1:, : self.padding] = 0
        return {
            "input_ids": ids,
            "attention_mask": mask,
            "num_beams": self.beams,
            "do_sample": False,
            "max_new_tokens": NEW_TOKENS,
            "min_new_tokens": NEW_TOKENS,
            "pad_token_id": 0,
        }


KINDS = (
    Kind(5),
    Kind(12, rows=2, padding=4),
    Kind(7, beams=3),
    Kind(40),
    Kind(21, rows=3, padding=9),
    Kind(3),
    Kind(16, rows=2, padding=5, beams=2),
    Kind(90),
)


@pytest.fixture(scope="module")
def local() -> Any:
    torch.set_num_threads(1)
    return AutoModelForCausalLM.from_pretrained(demo_path())


@pytest.fixture(scope="module")
def expected(local: Any) -> list[Tensor]:
    return [local.generate(**kind.arguments(seed)) for seed, kind in enumerate(KINDS)]


@pytest.fixture(scope="module")
def swarm(zygote: Any) -> Iterator[LocalSwarm]:
    """Two peers for each span."""
    with LocalSwarm(zygote) as swarm:
        swarm.bootstrap()
        for span in (*SPANS, *SPANS):
            swarm.serve("demo", span, *OPTIONS)
        yield swarm


def generate_at_once(model: SwarmModel, meet: Callable[[], None]) -> list[Tensor]:
    """All kinds, each in a thread of its own; `meet` is called once, when every one of them is at its 9th token."""
    barrier = threading.Barrier(len(KINDS), action=meet, timeout=MEETING_S)

    def run(seed: int) -> Tensor:
        together = StoppingCriteriaList([AtToken(MEET_AT, lambda: (barrier.wait(), None)[1])])
        tokens: Tensor = model.generate(**KINDS[seed].arguments(seed), stopping_criteria=together)
        return tokens

    with ThreadPoolExecutor(len(KINDS)) as threads:
        return list(threads.map(run, range(len(KINDS))))


def test_concurrent_sessions_change_no_token(swarm: LocalSwarm, expected: list[Tensor]) -> None:
    assert {record.batching for record in records(swarm.addresses, "demo")} == {"flat"}
    with SwarmModel.from_pretrained("demo", peers=swarm.addresses) as model:
        found = generate_at_once(model, lambda: None)
    assert [tokens.tolist() for tokens in found] == [tokens.tolist() for tokens in expected]
    assert wait_all_free(swarm.addresses)


@pytest.mark.parametrize("victim", [0, 1], ids=["first", "last"])
def test_a_peer_that_dies_in_the_middle_changes_no_token(
    swarm: LocalSwarm, expected: list[Tensor], victim: int
) -> None:
    with SwarmModel.from_pretrained("demo", peers=swarm.addresses) as model:

        def kill() -> None:
            chain = model.chain
            assert chain is not None
            peer_of(swarm, chain.hops[victim].peer_id).kill()

        found = generate_at_once(model, kill)
        assert model.stats.failovers >= 1
    assert [tokens.tolist() for tokens in found] == [tokens.tolist() for tokens in expected]


def peer_of(swarm: LocalSwarm, peer_id: str) -> PeerProcess:
    return next(peer for peer in swarm.peers if peer.peer_id == peer_id)
