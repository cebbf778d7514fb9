"""transformers' other ways to generate, over shards."""

from __future__ import annotations

import copy
import threading
from typing import Any

import pytest
import torch
from transformers import DynamicCache, PreTrainedModel
from transformers.generation.streamers import BaseStreamer

from swarm.core.errors import PeerUnreachable, RequestError
from swarm.shards.remote import RemoteCache
from swarm.shards.step import Step, StepTensors
from tests.shard_lab import Twins, generate, left_padded, prompt, twins_of
from tests.zoo import tiny_model

pytestmark = pytest.mark.slow
MODELS = ["gemma2", "gemma3_text", "gpt2", "llama", "mixtral"]
several = pytest.mark.parametrize("model_type", MODELS)


def same(twins: Twins, **arguments: Any) -> None:
    """Local and sharded model must return the same tokens."""
    local, found = generate(twins.local, **arguments), generate(twins.model, **arguments)
    assert local.tolist() == found.tolist()


def assistant_of(twins: Twins) -> PreTrainedModel:
    """A model of the same kind that agrees with the big one some of the time: the same weights, slightly moved."""
    torch.manual_seed(5)
    assistant = tiny_model(twins.source.config.model_type)
    assistant.load_state_dict(twins.local.state_dict())
    with torch.no_grad():
        for parameter in assistant.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.01)
    assistant.generation_config.num_assistant_tokens_schedule = "constant"
    return assistant


@several
def test_beam_search(model_type: str) -> None:
    twins = twins_of(model_type)
    same(twins, input_ids=prompt(), num_beams=3, do_sample=False)
    same(twins, **left_padded(), num_beams=4, num_return_sequences=2, do_sample=False, length_penalty=0.7)


@several
def test_beam_search_with_sampling(model_type: str) -> None:
    same(twins_of(model_type), input_ids=prompt(), num_beams=3, do_sample=True, seed=11)


@several
def test_several_returned_sequences(model_type: str) -> None:
    same(twins_of(model_type), input_ids=prompt(), num_return_sequences=3, do_sample=True, seed=3)


@several
def test_assistant_model(model_type: str) -> None:
    twins = twins_of(model_type)
    assistant = assistant_of(twins)
    same(twins, input_ids=prompt(), assistant_model=assistant, do_sample=False, max_new_tokens=20)
    same(twins, input_ids=prompt(), assistant_model=assistant, do_sample=True, seed=4)


@several
def test_the_sharded_model_as_assistant(model_type: str) -> None:
    twins = twins_of(model_type)
    expected = generate(twins.local, input_ids=prompt(), do_sample=False)
    found = generate(twins.local, input_ids=prompt(), assistant_model=twins.model, do_sample=False)
    assert expected.tolist() == found.tolist()


@several
def test_prompt_lookup(model_type: str) -> None:
    repeated = torch.cat([prompt(6)] * 3, dim=1)
    same(
        twins_of(model_type),
        input_ids=repeated,
        prompt_lookup_num_tokens=3,
        do_sample=False,
        max_new_tokens=20,
    )


@several
def test_several_turns_reuse_the_cache(model_type: str) -> None:
    twins = twins_of(model_type)
    turns = {}
    for model in (twins.local, twins.model):
        ids, cache, said = prompt(), None, []
        for turn in range(3):
            out = generate(
                model,
                input_ids=ids,
                past_key_values=cache,
                do_sample=False,
                return_dict_in_generate=True,
                max_new_tokens=5,
            )
            said.append(out.sequences.tolist())
            cache = out.past_key_values
            ids = torch.cat([out.sequences, prompt(4, seed=20 + turn)], dim=1)
        turns[model is twins.model] = said
        assert cache is not None
    assert turns[True] == turns[False]
    hops = twins.runner.sessions[-1].hops
    assert hops[0].counters.tokens == hops[0].length, "no token was computed twice"


def test_a_turn_after_assisted_generation_continues_the_same_session() -> None:
    twins = twins_of("gemma2")
    said = []
    for model in (twins.local, twins.model):
        first = generate(
            model,
            input_ids=prompt(),
            prompt_lookup_num_tokens=3,
            do_sample=False,
            return_dict_in_generate=True,
        )
        ids = torch.cat([first.sequences, prompt(4, seed=9)], dim=1)
        said.append(
            generate(model, input_ids=ids, past_key_values=first.past_key_values, do_sample=False).tolist()
        )
    assert said[0] == said[1]


class Collector(BaseStreamer):
    """A streamer that keeps the tokens."""

    def __init__(self) -> None:
        self.tokens: list[int] = []

    def put(self, value: torch.Tensor) -> None:
        self.tokens += value.flatten().tolist()

    def end(self) -> None:
        """Nothing to flush."""


def test_a_streamer_gets_every_token() -> None:
    twins, streamer = twins_of("llama"), Collector()
    out = generate(twins.model, input_ids=prompt(), do_sample=False, streamer=streamer)
    assert streamer.tokens == out.flatten().tolist()


def test_scores_and_logits_of_generate_equal_the_local_ones() -> None:
    twins = twins_of("llama")
    arguments: dict[str, Any] = {
        "input_ids": prompt(),
        "do_sample": False,
        "output_scores": True,
        "return_dict_in_generate": True,
    }
    local, found = generate(twins.local, **arguments), generate(twins.model, **arguments)
    torch.testing.assert_close(torch.stack(local.scores), torch.stack(found.scores), atol=1e-4, rtol=0)


def test_generation_without_cache_is_the_same() -> None:
    same(twins_of("llama"), input_ids=prompt(), use_cache=False, do_sample=False, max_new_tokens=4)


def test_a_plain_forward_may_continue_its_own_cache() -> None:
    twins, ids = twins_of("gemma2"), prompt(14)
    with torch.no_grad():
        whole = twins.local(ids).logits
        first = twins.model(ids[:, :9], use_cache=True)
        second = twins.model(ids[:, 9:], past_key_values=first.past_key_values)
    torch.testing.assert_close(torch.cat([first.logits, second.logits], 1), whole, atol=1e-4, rtol=0)


def test_inputs_embeds_work_like_token_ids() -> None:
    twins, ids = twins_of("llama"), prompt()
    embeds = twins.model.get_input_embeddings()(ids)
    assert generate(twins.model, inputs_embeds=embeds, do_sample=False).tolist() == [
        generate(twins.local, input_ids=ids, do_sample=False)[0, ids.shape[1] :].tolist()
    ]


def test_several_threads_generate_on_one_model() -> None:
    twins, found = twins_of("llama"), {}
    expected = {
        seed: generate(twins.local, input_ids=prompt(seed=seed), do_sample=False).tolist()
        for seed in range(4)
    }

    def work(seed: int) -> None:
        found[seed] = generate(twins.model, input_ids=prompt(seed=seed), do_sample=False).tolist()

    threads = [threading.Thread(target=work, args=(seed,)) for seed in expected]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == expected


def test_a_recurrent_model_refuses_assisted_generation_like_the_local_one() -> None:
    twins = twins_of("qwen3_next")
    repeated = torch.cat([prompt(6)] * 3, dim=1)
    for model in (twins.local, twins.model):
        with pytest.raises((ValueError, RequestError)):
            generate(model, input_ids=repeated, prompt_lookup_num_tokens=3, do_sample=False)


def test_gradients_are_refused() -> None:
    twins = twins_of("llama")
    embeds = twins.model.get_input_embeddings()(prompt()).clone().requires_grad_(True)
    with pytest.raises(RequestError, match="gradients"):
        twins.model(inputs_embeds=embeds)


def test_the_session_is_opened_for_the_length_that_generate_may_reach() -> None:
    twins = twins_of("llama")
    asked: list[int] = []

    class Runner:
        def open(self, *, max_tokens: int, rollback: bool) -> Any:
            asked.append(max_tokens)
            return twins.runner.open(max_tokens=max_tokens, rollback=rollback)

    remote = twins.model.remote_layers
    remote.__dict__["runner"] = Runner()
    try:
        generate(twins.model, input_ids=prompt(11), do_sample=False, max_new_tokens=7)
    finally:
        remote.__dict__["runner"] = twins.runner
    assert asked == [18]


def test_a_local_cache_is_refused_with_what_to_do_instead() -> None:
    with pytest.raises(RequestError, match="leave past_key_values out in the first call"):
        generate(twins_of("llama").model, input_ids=prompt(), past_key_values=DynamicCache())


@pytest.mark.parametrize("wish", ["output_hidden_states", "output_attentions"])
def test_what_stays_on_the_peers_is_refused(wish: str) -> None:
    with pytest.raises(RequestError, match=f"{wish} is not available"):
        generate(twins_of("llama").model, input_ids=prompt(), return_dict_in_generate=True, **{wish: True})


def test_more_tokens_than_positions_are_refused_before_anything_is_sent() -> None:
    twins = twins_of("gpt2")
    with pytest.raises(RequestError, match="257 tokens are more than the 256 positions"):
        twins.model(prompt(257))
    assert not twins.runner.sessions


class FailingHop:
    """A hop that is gone."""

    def apply(self, step: Step) -> StepTensors:
        raise PeerUnreachable("gone")


def test_a_failed_step_may_be_repeated() -> None:
    twins, ids = twins_of("llama"), prompt(12)
    with torch.no_grad():
        out = twins.model(ids[:, :11], use_cache=True)
        cache = out.past_key_values
        hops: list[Any] = twins.runner.sessions[-1].hops
        lost, hops[2] = hops[2], FailingHop()
        with pytest.raises(PeerUnreachable):
            twins.model(ids[:, 11:], past_key_values=cache)
        hops[2] = lost
        again = twins.model(ids[:, 11:], past_key_values=cache)
        expected = twins.local(ids).logits[:, -1:]
    torch.testing.assert_close(again.logits, expected, atol=1e-4, rtol=0)
    assert [hop.counters.tokens for hop in hops] == [12, 12, 12], (
        "hops before the failure computed nothing twice"
    )


def test_another_step_after_a_failed_one_takes_its_place() -> None:
    twins, ids, other = twins_of("llama"), prompt(14), prompt(3, seed=8)
    with torch.no_grad():
        cache = twins.model(ids[:, :11], use_cache=True).past_key_values
        hops: list[Any] = twins.runner.sessions[-1].hops
        lost, hops[2] = hops[2], FailingHop()
        with pytest.raises(PeerUnreachable):
            twins.model(other, past_key_values=cache)
        hops[2] = lost
        found = twins.model(ids[:, 11:], past_key_values=cache).logits
        expected = twins.local(ids).logits[:, 11:]
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)


def test_a_remote_cache_cannot_be_copied() -> None:
    cache = twins_of("llama").model.remote_layers.new_cache()
    assert isinstance(cache, RemoteCache)
    with pytest.raises(RequestError, match="cannot be copied"):
        copy.deepcopy(cache)
