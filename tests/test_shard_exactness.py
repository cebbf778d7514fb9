"""A model cut into three unequal spans generates exactly what the whole model generates."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.shard_lab import generate, left_padded, prompt, twins_of
from tests.zoo import ARCHITECTURES

pytestmark = pytest.mark.slow
every_architecture = pytest.mark.parametrize("model_type", sorted(ARCHITECTURES))
TOLERANCE = 1e-4


@every_architecture
def test_logits_equal_those_of_the_local_model(model_type: str) -> None:
    twins, batch = twins_of(model_type), left_padded()
    with torch.no_grad():
        for inputs in ({"input_ids": prompt(17)}, batch):
            expected, found = twins.local(**inputs).logits, twins.model(**inputs).logits
            mask = inputs.get("attention_mask", torch.ones_like(inputs["input_ids"])).bool()
            assert torch.isfinite(found[mask]).all()
            assert (expected - found)[mask].abs().max() < TOLERANCE


@every_architecture
def test_greedy_tokens_equal_those_of_the_local_model(model_type: str) -> None:
    twins = twins_of(model_type)
    arguments: dict[str, Any] = {
        "input_ids": prompt(),
        "do_sample": False,
        "output_logits": True,
        "return_dict_in_generate": True,
    }
    expected, found = generate(twins.local, **arguments), generate(twins.model, **arguments)
    assert expected.sequences.tolist() == found.sequences.tolist()
    pairs = zip(expected.logits, found.logits, strict=True)
    assert max((a - b).abs().max().item() for a, b in pairs) < TOLERANCE


@every_architecture
def test_sampled_tokens_equal_those_of_the_local_model(model_type: str) -> None:
    twins = twins_of(model_type)
    arguments: dict[str, Any] = {
        "input_ids": prompt(),
        "do_sample": True,
        "temperature": 0.9,
        "top_p": 0.95,
        "seed": 7,
    }
    assert generate(twins.local, **arguments).tolist() == generate(twins.model, **arguments).tolist()


@every_architecture
def test_a_left_padded_batch_generates_the_same_tokens(model_type: str) -> None:
    twins = twins_of(model_type)
    arguments: dict[str, Any] = {**left_padded(), "do_sample": False}
    assert generate(twins.local, **arguments).tolist() == generate(twins.model, **arguments).tolist()
    assert not twins.runner.sessions, "every session ends with its cache"
