"""Eight sessions of mixed kinds generate at once through peers that batch them: each gets its own local tokens.

Among them are batches, beams, a sampled one, one that drafts, one whose prompt goes in pieces, and one that begins with
what an earlier session left on the peers.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, LogitsProcessor, StoppingCriteria

from swarm import SwarmModel
from swarm.builtin import demo_path
from tests.peers import LocalSwarm, PeerProcess
from tests.swarm_records import records, wait_all_free

pytestmark = [pytest.mark.slow, pytest.mark.network]

SPANS = ("0:3", "3:8")
NEW_TOKENS = 24
MEET_AT = 9
BONUS = 10.0  # of logits
MEETING_S = 120.0
OPTIONS = ("--threads", "1", "--cache-tokens", "16384")


@dataclass(frozen=True)
class Kind:
    """How one session generates.

    Attributes:
        length: positions of its prompt.
        rows: of its batch; all but the first have `padding` at their left.
        beams: of beam search.
        period: after which the prompt repeats itself, as the text then often does; 0 means never.
        speculate: drafts, where the model is a swarm's.
        sampled: draws its tokens instead of taking the likeliest.
    """

    length: int
    rows: int = 1
    padding: int = 0
    beams: int = 1
    period: int = 0
    speculate: str = "off"
    sampled: bool = False

    def arguments(self, seed: int) -> dict[str, Any]:
        """For `generate()` of any model; `seed` makes the prompt."""
        drawn = (self.rows, self.period or self.length)
        ids = torch.randint(5, 150, drawn, generator=torch.Generator().manual_seed(seed))
        ids = ids.repeat(1, -(-self.length // drawn[1]))[:, : self.length]
        mask = torch.ones_like(ids)
        mask[1:, : self.padding] = 0
        return {
            "input_ids": ids,
            "attention_mask": mask,
            "num_beams": self.beams,
            "do_sample": False,
            "logits_processor": self.processors(),
            "max_new_tokens": NEW_TOKENS,
            "min_new_tokens": NEW_TOKENS,
            "pad_token_id": 0,
        }

    def processors(self) -> list[LogitsProcessor]:
        habits: list[LogitsProcessor] = [Habit(self.period)] if self.period else []
        return habits + ([Noise()] if self.sampled else [])


class Habit(LogitsProcessor):
    """Makes tokens of one period before likelier: without it the demo model repeats nothing, and drafts fail."""

    def __init__(self, period: int) -> None:
        self._period = period

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        return scores.scatter_add(
            1, input_ids[:, -self._period, None], scores.new_full((len(scores), 1), BONUS)
        )


class Noise(LogitsProcessor):
    """Makes greedy choice sampling, by Gumbel noise of each position's own seed: threads share torch's generator."""

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        generator = torch.Generator().manual_seed(input_ids.shape[1])
        return scores - torch.log(-torch.log(torch.rand(scores.shape, generator=generator)))


class AtLength(StoppingCriteria):
    """Never stops; calls `action` once, when the sequence has at least `length` tokens."""

    def __init__(self, length: int, action: Callable[[], object]) -> None:
        self._length = length
        self._action = action
        self._happened = False

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Any:
        if not self._happened and input_ids.shape[1] >= self._length:
            self._happened = True
            self._action()
        return torch.zeros(input_ids.shape[0], dtype=torch.bool)


IN_PIECES = Kind(300)
DRAFTS = Kind(24, period=6, speculate="ngram")
SEEN_BEFORE = Kind(90)
KINDS = (
    Kind(5),
    Kind(12, rows=2, padding=4),
    Kind(7, beams=3),
    IN_PIECES,
    DRAFTS,
    Kind(3, sampled=True),
    Kind(16, rows=2, padding=5, beams=2),
    SEEN_BEFORE,
)
REUSED = 64  # blocks of 32 that the prompt of SEEN_BEFORE fills


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


def generate(model: SwarmModel, kind: Kind, meet: Callable[[], object]) -> Tensor:
    seed = KINDS.index(kind)
    criteria = [AtLength(kind.length + MEET_AT, meet)]
    tokens: Tensor = model.generate(
        **kind.arguments(seed), stopping_criteria=criteria, speculate=kind.speculate
    )
    return tokens


def generate_at_once(model: SwarmModel, meet: Callable[[], None]) -> list[Tensor]:
    """All kinds, each in a thread of its own; `meet` is called once, when every one of them has 9 tokens."""
    generate(model, SEEN_BEFORE, lambda: None)
    reused, drafted = model.stats.reused_tokens, model.stats.accepted_tokens
    assert reused == 0
    barrier = threading.Barrier(len(KINDS), action=meet, timeout=MEETING_S)
    with ThreadPoolExecutor(len(KINDS)) as threads:
        found = list(threads.map(lambda kind: generate(model, kind, barrier.wait), KINDS))
    assert model.stats.reused_tokens == REUSED
    assert model.stats.accepted_tokens > drafted
    return found


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
