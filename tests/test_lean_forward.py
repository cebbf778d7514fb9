"""The lean forward of a client's single tokens gives what the model's own code gives, or is not taken."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from swarm.core.errors import RequestError
from swarm.shards.causal import cache_argument
from swarm.shards.lean_forward import LeanForward, find_lean_forward
from tests.shard_lab import generate, left_padded, prompt, twins_of

pytestmark = pytest.mark.slow
SHORT = ["llama", "qwen3", "olmo2", "phi", "gpt_neox", "gemma", "mistral", "qwen3_moe"]
LONG = ["gpt2", "opt", "gemma2", "cohere", "bloom"]
"""Positions are added to the embeddings, or logits are scaled or capped."""


class Counted(LeanForward):
    """One that counts how often it is taken."""

    taken = 0

    def run(self, given: dict[str, Any]) -> Any:
        """See `LeanForward`."""
        self.taken += 1
        return super().run(given)


@pytest.fixture
def counted() -> Iterator[Any]:
    """Makes the lean forward of an architecture's client count; all is as before afterwards."""
    changed: list[LeanForward] = []

    def count(model_type: str) -> tuple[Any, Counted]:
        model = twins_of(model_type).model
        lean = model.lean_forward
        lean.__class__, lean.taken = Counted, 0
        changed.append(lean)
        return model, lean

    yield count
    for lean in changed:
        lean.__class__ = LeanForward


def as_ever(model: Any, **arguments: Any) -> Any:
    """What the model generates by its own code alone."""
    lean, model.__dict__["lean_forward"] = model.__dict__["lean_forward"], None
    try:
        return generate(model, **arguments)
    finally:
        model.__dict__["lean_forward"] = lean


@pytest.mark.parametrize("model_type", SHORT)
def test_logits_are_the_very_same(counted: Any, model_type: str) -> None:
    model, lean = counted(model_type)
    given: dict[str, Any] = {"input_ids": prompt(), "output_logits": True, "return_dict_in_generate": True}
    expected = as_ever(model, **given)
    assert lean.taken == 0
    found = generate(model, **given)
    assert lean.taken == len(found.logits) - 1
    assert model.remote_layers.__dict__["context"].cache is None  # or the stack alone would go on with it
    assert expected.sequences.tolist() == found.sequences.tolist()
    assert all(torch.equal(a, b) for a, b in zip(expected.logits, found.logits, strict=True))


@pytest.mark.parametrize("model_type", LONG)
def test_models_whose_own_code_does_more_have_none(model_type: str) -> None:
    assert twins_of(model_type).model.lean_forward is None


def test_sampling_and_processors_work_as_ever(counted: Any) -> None:
    model, lean = counted("llama")
    given: dict[str, Any] = {
        "input_ids": prompt(),
        "do_sample": True,
        "repetition_penalty": 1.3,
        "min_new_tokens": 9,
        "seed": 3,
    }
    assert as_ever(model, **given).tolist() == generate(model, **given).tolist()
    assert lean.taken > 0


def test_a_session_goes_on_after_other_calls(counted: Any) -> None:
    """Tokens, pieces of several tokens and roll-backs in turn on one cache."""
    model, lean = counted("llama")
    ids, found = prompt(20), []
    for one_way in (True, False):
        cache, logits = model.remote_layers.new_cache(), []
        if one_way:
            model.__dict__["lean_forward"] = None
        with torch.no_grad():
            for begin, end in ((0, 5), (5, 6), (6, 9), (9, 10), (10, 11)):
                output = model(input_ids=ids[:, begin:end], past_key_values=cache, use_cache=True)
                assert output.past_key_values is cache
                logits.append(output.logits)
            cache.crop(-2)
            logits.append(model(input_ids=ids[:, 9:10], past_key_values=cache).logits)
        found.append(torch.cat(logits, dim=1))
        cache.close()
        model.__dict__["lean_forward"] = lean
    assert lean.taken == 4
    assert torch.equal(*found)


def test_one_padded_row_generates_the_same(counted: Any) -> None:
    model, lean = counted("llama")
    batch: dict[str, Any] = left_padded((9, 5))
    row: dict[str, Any] = {name: value[1:] for name, value in batch.items()}
    assert as_ever(model, **row).tolist() == generate(model, **row).tolist()
    assert lean.taken > 0
    assert generate(model, **row).tolist()[0] == generate(model, **batch).tolist()[1]


def test_positions_that_are_not_the_next_ones_reach_the_layers(counted: Any) -> None:
    model, lean = counted("llama")
    found = []
    with torch.no_grad():
        for position in (8, 20):
            cache = model.remote_layers.new_cache()
            model(input_ids=prompt(8), past_key_values=cache)
            output = model(
                input_ids=prompt(1), past_key_values=cache, position_ids=torch.tensor([[position]])
            )
            found.append(output.logits)
            cache.close()
    assert lean.taken == 2
    assert not torch.allclose(found[0], found[1], atol=1e-4)


@pytest.mark.parametrize(
    "more",
    [
        {"labels": prompt(1)},
        {"inputs_embeds": torch.zeros(1, 1, 32), "input_ids": None},
        {"return_dict": False},
        {"use_cache": False},
    ],
)
def test_what_asks_for_more_goes_the_usual_way(counted: Any, more: dict[str, Any]) -> None:
    model, lean = counted("llama")
    cache = model.remote_layers.new_cache()
    with torch.no_grad():
        model(input_ids=prompt(8), past_key_values=cache)
        output = model(**{"input_ids": prompt(1), "past_key_values": cache, **more})
    cache.close()
    assert isinstance(output, tuple) == ("return_dict" in more)
    assert lean.taken == 0


def test_hooks_on_the_stack_are_called(counted: Any) -> None:
    model, lean = counted("llama")
    seen: list[int] = []
    handle = model.remote_stack.register_forward_hook(lambda *_: seen.append(1))
    generate(model, input_ids=prompt(), max_new_tokens=4)
    handle.remove()
    assert (len(seen), lean.taken) == (4, 0)


def test_positions_end_with_a_clear_error(counted: Any) -> None:
    model, lean = counted("llama")
    cache = model.remote_layers.new_cache()
    with torch.no_grad():
        model(input_ids=prompt(8), past_key_values=cache)
        lean._limit = cache.length
        assert not lean.takes({"input_ids": prompt(1), "past_key_values": cache})
        lean._limit = None
    cache.close()


def test_a_cache_that_lives_here_is_refused_as_ever(counted: Any) -> None:
    from transformers import DynamicCache

    model, _ = counted("llama")
    with torch.no_grad(), pytest.raises(RequestError, match="cannot be used here"):
        model(input_ids=prompt(1), past_key_values=DynamicCache())


def test_a_norm_that_does_more_than_it_shows_is_found_out() -> None:
    """The trial compares numbers, not names."""
    model = twins_of("llama").model
    stack = model.remote_stack

    def doubled(module: object, args: object, output: Any) -> Any:
        output.last_hidden_state = output.last_hidden_state * 2
        return output

    handle = stack.register_forward_hook(doubled)
    assert find_lean_forward(model, cache_argument(type(model))) is None
    handle.remove()
    assert find_lean_forward(model, cache_argument(type(model))) is not None
