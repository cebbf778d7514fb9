"""Speculative decoding: the drafts, their length, and that they change nothing."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM

from swarm import ConfigError, SwarmModel
from swarm.builtin import demo_path
from swarm.client.draft_length import LONGEST, DraftLength
from swarm.client.ngram import NgramIndex
from tests.peers import LocalSwarm


def test_a_period_is_continued_beyond_the_end() -> None:
    index = NgramIndex()
    index.update([1, 2, 3, 1, 2, 3, 1, 2])
    assert index.propose(7) == ([3, 1, 2, 3, 1, 2, 3], 4)


def test_the_latest_and_longest_match_wins() -> None:
    index = NgramIndex()
    index.update([7, 8, 9, 1, 5, 8, 9, 2, 7, 8, 9])
    assert index.propose(1) == ([1], 3)
    index.update([7, 8, 9, 1, 5, 8, 9, 2, 6, 8, 9])
    assert index.propose(1) == ([2], 2)


def test_without_a_match_nothing_is_proposed() -> None:
    index = NgramIndex()
    index.update([1, 2, 3])
    assert index.propose(5) == ([], 0)


@given(st.lists(st.integers(0, 3), max_size=40), st.lists(st.integers(0, 3), max_size=10), st.integers(0, 40))
def test_growing_by_pieces_and_going_back_are_the_same_as_starting_anew(
    tokens: list[int], more: list[int], cut: int
) -> None:
    grown, fresh = NgramIndex(), NgramIndex()
    grown.update(tokens)
    grown.update(tokens[:cut] + more)
    fresh.update(tokens[:cut] + more)
    assert grown.propose(6) == fresh.propose(6)


def learned(acceptance: float, base_s: float, slope_s: float) -> DraftLength:
    """A chooser after many drafts of 8 and steps of 1 and 9 tokens."""
    length = DraftLength()
    for _ in range(200):
        length.observe(2, 8, round(8 * acceptance))
        length.observe_cost(1, base_s + slope_s)
        length.observe_cost(9, base_s + 9 * slope_s)
    return length


def test_drafts_are_long_where_they_are_right_and_steps_are_dear() -> None:
    far = learned(acceptance=1.0, base_s=0.2, slope_s=0.0001).choose(2)
    near = learned(acceptance=1.0, base_s=0.01, slope_s=0.01).choose(2)
    assert far == LONGEST
    assert near < far


def test_useless_drafts_are_given_up_but_tried_again() -> None:
    length = learned(acceptance=0.0, base_s=0.01, slope_s=0.01)
    chosen = [length.choose(2) for _ in range(64)]
    assert 0 in chosen
    assert 0 < sum(k > 0 for k in chosen) <= 4


@pytest.mark.slow
@pytest.mark.network
class TestOverPeers:
    """Drafts through a real chain."""

    @pytest.fixture(scope="class")
    def swarm(self, zygote: Any) -> Iterator[LocalSwarm]:
        with LocalSwarm(zygote) as swarm:
            for span in ("0:3", "3:6", "6:8"):
                swarm.serve("demo", span, "--threads", "1")
            yield swarm

    @pytest.fixture(scope="class")
    def model(self, swarm: LocalSwarm) -> Iterator[SwarmModel]:
        with SwarmModel.from_pretrained("demo", peers=swarm.addresses[:1]) as model:
            yield model

    @pytest.mark.parametrize("speculate", ["auto", "ngram"])
    def test_greedy_tokens_stay_the_same(self, model: SwarmModel, speculate: str) -> None:
        local: Any = AutoModelForCausalLM.from_pretrained(demo_path())
        for start in ([5, 6, 7, 5, 6, 7, 5, 6], [9, 30, 11]):
            ids = torch.tensor([start])
            options: dict[str, Any] = {"max_new_tokens": 60, "min_new_tokens": 60, "do_sample": False}
            expected = local.generate(ids, **options)
            assert torch.equal(model.generate(ids, speculate=speculate, **options), expected)
        assert model.stats.drafted_tokens > 0

    def test_a_model_may_draft(self, model: SwarmModel) -> None:
        local: Any = AutoModelForCausalLM.from_pretrained(demo_path())
        ids = torch.tensor([[9, 30, 11]])
        expected = local.generate(ids, max_new_tokens=30, do_sample=False)
        steps = model.stats.steps
        assert torch.equal(model.generate(ids, speculate=local, max_new_tokens=30, do_sample=False), expected)
        assert model.stats.steps - steps < 25

    def test_auto_leaves_batches_and_beams_alone(self, model: SwarmModel) -> None:
        ids = torch.tensor([[5, 6, 7, 5, 6, 7], [5, 6, 7, 5, 6, 8]])
        drafted = model.stats.drafted_tokens
        model.generate(ids, speculate="auto", max_new_tokens=8, do_sample=False)
        model.generate(ids[:1], speculate="auto", num_beams=2, max_new_tokens=8, do_sample=False)
        assert model.stats.drafted_tokens == drafted

    def test_impossible_speculation_is_refused(self, model: SwarmModel) -> None:
        ids = torch.tensor([[5, 6, 7], [5, 6, 8]])
        with pytest.raises(ConfigError, match="several rows"):
            model.generate(ids, speculate="ngram", max_new_tokens=4)
        with pytest.raises(ConfigError, match="use one of"):
            model.generate(ids, speculate="perhaps", max_new_tokens=4)

    def test_sampling_keeps_its_distribution(self, model: SwarmModel) -> None:
        """The second sampled token's frequencies, with and without drafts, differ no more than chance allows."""
        ids = torch.tensor([[5, 6, 7, 5, 6, 7, 5, 6]])
        counts = torch.zeros(2, 512)
        torch.manual_seed(0)
        for _ in range(250):
            for row, speculate in enumerate(("off", "ngram")):
                new = model.generate(
                    ids,
                    speculate=speculate,
                    do_sample=True,
                    top_k=4,
                    temperature=1.5,
                    max_new_tokens=2,
                    min_new_tokens=2,
                )
                counts[row, new[0, -1]] += 1
        seen = counts.sum(0) > 0
        expected = counts[:, seen].sum(0) / 2
        chi_square = ((counts[:, seen] - expected) ** 2 / expected).sum().item()
        freedom = int(seen.sum()) - 1
        assert chi_square < freedom + 5 * (2 * freedom) ** 0.5 + 1
