"""A conversation's cache: every answer is that of a fresh session, and only what is new is computed."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from swarm.client.dialogue import Dialogue
from swarm.shards.causal import cache_argument
from tests.in_process import Lab
from tests.shard_lab import prompt

NEW = 8


def dialogue_of(lab: Lab) -> Dialogue:
    model: Any = lab.model
    return Dialogue(model.remote_layers, cache_argument(type(model)))


def answer(lab: Lab, dialogue: Dialogue, ids: list[int], **options: Any) -> list[int]:
    """The tokens that follow `ids`."""
    model: Any = lab.model
    kept = dialogue.arguments(ids, NEW)
    asked: dict[str, Any] = {
        "max_new_tokens": NEW,
        "min_new_tokens": NEW,
        "do_sample": False,
        "pad_token_id": 0,
    }
    found: list[int] = model.generate(torch.tensor([ids]), **asked, **kept, **options)[0].tolist()
    dialogue.note(found)
    return found[len(ids) :]


def fresh(lab: Lab, ids: list[int]) -> list[int]:
    [found] = lab.local(input_ids=torch.tensor([ids]), max_new_tokens=NEW, min_new_tokens=NEW, pad_token_id=0)
    return found[len(ids) :]


@pytest.mark.slow
@pytest.mark.parametrize("drafts", [{}, {"prompt_lookup_num_tokens": 3}], ids=["plain", "drafts"])
@pytest.mark.parametrize("model_type", ["llama", "gemma2"])
def test_every_turn_is_that_of_a_fresh_session(model_type: str, drafts: dict[str, Any]) -> None:
    with Lab(model_type) as lab:
        lab.serve("A", 0, 3)
        lab.serve("B", 3, 6)
        dialogue = dialogue_of(lab)
        ids = [5, 6, 7, 8, 9, 5, 6, 7, 8, 9, 5, 6]
        for turn in range(3):
            found = answer(lab, dialogue, ids, **drafts)
            assert found == fresh(lab, ids)
            assert dialogue.cached >= len(ids) + NEW - 1
            ids = [*ids, *found, *prompt(4, seed=turn)[0].tolist()]
        dialogue.close()
        for session in lab.sessions:
            session.close()


@pytest.mark.slow
def test_only_what_is_new_goes_through_the_chain() -> None:
    with Lab() as lab:
        lab.serve("A", 0, 6)
        dialogue, ids = dialogue_of(lab), prompt(12)[0].tolist()
        answer(lab, dialogue, ids)
        before = dialogue.cached
        kept = dialogue.arguments([*ids, 1, 2, 3], NEW)
        assert (before, next(iter(kept.values())).length) == (12 + NEW - 1, 12)
        same = dialogue.arguments(ids, NEW)
        assert next(iter(same.values())).length == 11  # the last token gives the first logits
        assert len(lab.sessions) == 1
        dialogue.close()
        for session in lab.sessions:
            session.close()


@pytest.mark.slow
def test_a_model_that_cannot_go_back_begins_again() -> None:
    with Lab("mamba2") as lab:
        lab.serve("A", 0, 6)
        dialogue, ids = dialogue_of(lab), prompt(12)[0].tolist()
        first = answer(lab, dialogue, ids)
        other = [*ids[:6], 3, 4]
        assert answer(lab, dialogue, other) == fresh(lab, other)
        assert first == fresh(lab, ids)
        dialogue.close()
        for session in lab.sessions:
            session.close()
