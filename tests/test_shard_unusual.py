"""Architectures that do something no other one does: they work too, or are refused with the reason."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
import torch

from swarm.core.errors import ConfigError, ModelError, RequestError
from swarm.core.span import Span
from swarm.shards.remote import RemoteCache
from swarm.shards.shard import Shard
from swarm.shards.step import Step
from tests.shard_lab import CPU, Twins, generate, left_padded, prompt, source_of, twins_of
from tests.zoo import UNUSUAL

pytestmark = pytest.mark.slow
REFUSED = {"inkling2_text": "share the running value 'block_states'", "recurrent_gemma": "sessions would mix"}
working = pytest.mark.parametrize("model_type", sorted(UNUSUAL.keys() - REFUSED.keys()))


@working
def test_greedy_tokens_equal_those_of_the_local_model(model_type: str) -> None:
    twins = twins_of(model_type)
    batches: list[dict[str, Any]] = [{"input_ids": prompt()}, {**left_padded()}]
    for inputs in batches:
        local, found = (generate(model, **inputs, do_sample=False) for model in (twins.local, twins.model))
        assert local.tolist() == found.tolist()


@working
def test_beam_search_equals_that_of_the_local_model(model_type: str) -> None:
    twins = twins_of(model_type)
    arguments: dict[str, Any] = {"input_ids": prompt(), "num_beams": 3, "do_sample": False}
    local, found = (generate(model, seed=None, **arguments) for model in (twins.local, twins.model))
    assert local.tolist() == found.tolist()


def left_behind(twins: Twins) -> RemoteCache:
    """A live session at position 16."""
    cache: RemoteCache = twins.model.remote_layers.new_cache()
    takes = inspect.signature(type(twins.local).forward).parameters
    given = {"past_key_values" if "past_key_values" in takes else "cache_params": cache}
    ids = prompt(16)
    with torch.no_grad():
        twins.model(ids[:, :11], **given)
        for position in range(11, 16):
            twins.model(ids[:, position : position + 1], **given)
    return cache


@working
@pytest.mark.parametrize("chunk", [3, 100])
def test_a_lost_hop_is_rebuilt_from_kept_outputs(model_type: str, chunk: int) -> None:
    twins = twins_of(model_type)
    shard = twins.runner.shards[1]
    if not shard.traits.chunkable and chunk < 100:
        pytest.skip("recurrent: rebuilt in one piece only")
    cache = left_behind(twins)
    before, lost = twins.runner.sessions[-1].hops[:2]
    heir = shard.open(shard.span, rollback=True)
    for number, start in enumerate(range(0, 16, chunk)):
        heir.apply(Step(number, start, before.kept.slice(start, min(start + chunk, 16))))
    expected, found = lost.kept.slice(0, 16).hidden, heir.kept.slice(0, 16).hidden
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    cache.close()


@pytest.mark.parametrize("model_type", sorted(REFUSED))
def test_what_cannot_be_divided_is_refused_with_the_reason(model_type: str) -> None:
    with pytest.raises(ModelError, match=REFUSED[model_type]):
        Shard.load(source_of(model_type), Span(0, 2), dtype=torch.float32, device=CPU)


def test_layers_that_share_keys_and_values_stay_together() -> None:
    source = source_of("gemma3n_text")
    assert source.inseparable == Span(2, 6)
    for span in (Span(0, 3), Span(4, 6)):
        with pytest.raises(ConfigError, match=r"layers 2:6 of .* cannot be divided"):
            Shard.load(source, span, dtype=torch.float32, device=CPU)
    shard = Shard.load(source, Span(1, 6), dtype=torch.float32, device=CPU)
    with pytest.raises(RequestError, match="cannot be divided"):
        shard.open(Span(1, 5), rollback=False)


def test_a_cache_that_cannot_forget_says_so() -> None:
    twins = twins_of("deepseek_v4")
    out = twins.model(prompt(), use_cache=True)
    assert not out.past_key_values.is_croppable
    with pytest.raises(RequestError, match="cannot roll back"):
        out.past_key_values.crop(-1)


def test_a_short_convolution_rolls_back_within_its_last_step() -> None:
    twins = twins_of("lfm2")
    repeated = torch.cat([prompt(5)] * 3, dim=1)
    arguments: dict[str, Any] = {"input_ids": repeated, "prompt_lookup_num_tokens": 3, "do_sample": False}
    local, found = (generate(model, seed=None, **arguments) for model in (twins.local, twins.model))
    assert local.tolist() == found.tolist()
