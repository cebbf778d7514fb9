"""Models of several architectures over three real peers and real sockets: the tokens of the local model."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel

from swarm import SwarmModel, SwarmUnavailable
from swarm.core.errors import NodeError
from tests.generation import TokenList
from tests.peers import LocalSwarm
from tests.shard_lab import folder_of, generate, left_padded, prompt
from tests.swarm_records import wait_all_free
from tests.zoo import tiny_model

pytestmark = [pytest.mark.slow, pytest.mark.network]

MODELS = ["llama", "gemma2", "gpt2", "mixtral"]
SPANS = ("0:1", "1:4", "4:6")


@dataclass(frozen=True)
class Pair:
    """The same checkpoint as a local model and over a swarm of three peers."""

    local: PreTrainedModel
    model: SwarmModel
    swarm: LocalSwarm

    def agree(self, arguments: dict[str, Any], seed: int | None = None) -> Any:
        """Both must return the same tokens."""
        expected = generate(self.local, seed=seed, **arguments)
        found = generate(self.model, seed=seed, **arguments)
        assert torch.equal(found, expected)
        return found


@pytest.fixture(scope="module", params=MODELS)
def pair(request: pytest.FixtureRequest, zygote: Any) -> Iterator[Pair]:
    from transformers import AutoModelForCausalLM

    folder = folder_of(request.param)
    with LocalSwarm(zygote) as swarm:
        for span in SPANS:
            swarm.serve(folder, span, "--threads", "1")
        with SwarmModel.from_pretrained(folder, peers=swarm.addresses[:1]) as model:
            auto: Any = AutoModelForCausalLM
            yield Pair(auto.from_pretrained(folder, dtype=torch.float32).eval(), model, swarm)
        wait_all_free(swarm.addresses)


def test_greedy_sampling_and_a_padded_batch(pair: Pair) -> None:
    pair.agree({"input_ids": prompt(), "do_sample": False})
    assert pair.model.chain is None or [str(hop.span) for hop in pair.model.chain.hops] == list(SPANS)
    pair.agree({"input_ids": prompt(), "do_sample": True}, seed=5)
    pair.agree(left_padded() | {"do_sample": False})


def test_logits_of_a_forward(pair: Pair) -> None:
    ids = prompt(length=14, rows=2)
    with torch.no_grad():
        assert (pair.model(ids).logits - pair.local(ids).logits).abs().max() < 1e-4


def test_beams_and_several_sequences(pair: Pair) -> None:
    pair.agree(left_padded() | {"do_sample": False, "num_beams": 3, "num_return_sequences": 2})
    pair.agree({"input_ids": prompt(), "do_sample": True, "num_return_sequences": 3}, seed=2)


def test_prompt_lookup(pair: Pair) -> None:
    repetitive = torch.tensor([[5, 6, 7, 8, 9, 5, 6, 7, 8, 9, 5, 6]])
    pair.agree({"input_ids": repetitive, "do_sample": False, "prompt_lookup_num_tokens": 3})


def test_assistant_model(pair: Pair) -> None:
    assistant = tiny_model(pair.local.config.model_type)
    assistant.load_state_dict(pair.local.state_dict())
    with torch.no_grad():
        for parameter in assistant.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)) * 0.01)
    pair.agree({"input_ids": prompt(), "do_sample": False, "assistant_model": assistant})


def test_scores_and_streaming(pair: Pair) -> None:
    streamer = TokenList()
    options: dict[str, Any] = {"do_sample": False, "output_scores": True, "return_dict_in_generate": True}
    expected = generate(pair.local, input_ids=prompt(), **options)
    found = generate(pair.model, input_ids=prompt(), streamer=streamer, **options)
    assert streamer.tokens == found.sequences[0].tolist() == expected.sequences[0].tolist()
    for a, b in zip(found.scores, expected.scores, strict=True):
        assert (a - b).abs().max() < 1e-4


def test_a_second_turn_reuses_the_cache(pair: Pair) -> None:
    options: dict[str, Any] = {"do_sample": False, "return_dict_in_generate": True}
    turns = []
    for model in (pair.local, pair.model):
        first = generate(model, input_ids=prompt(), **options)
        more = torch.cat([first.sequences, prompt(4, seed=9)], dim=1)
        turns.append(generate(model, input_ids=more, past_key_values=first.past_key_values, **options))
    assert torch.equal(turns[0].sequences, turns[1].sequences)


def test_several_threads_share_one_model(pair: Pair) -> None:
    prompts = [prompt(6 + i, seed=20 + i) for i in range(4)]
    expected = [generate(pair.local, input_ids=ids, do_sample=False) for ids in prompts]
    found: list[Any] = [None] * len(prompts)

    def run(index: int) -> None:
        found[index] = generate(pair.model, input_ids=prompts[index], do_sample=False)

    threads = [threading.Thread(target=run, args=(i,)) for i in range(len(prompts))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_the_model_says_what_it_is(pair: Pair) -> None:
    assert isinstance(pair.model, SwarmModel)
    assert isinstance(pair.model, type(pair.local))
    assert repr(pair.model).startswith("SwarmModel(")


def test_a_closed_model_says_so(zygote: Any) -> None:
    with LocalSwarm(zygote) as swarm:
        swarm.serve(folder_of("llama"), "0:6", "--threads", "1")
        model = SwarmModel.from_pretrained(folder_of("llama"), peers=swarm.addresses)
        model.close()
        model.close()
        with pytest.raises(NodeError, match="closed"):
            generate(model, input_ids=prompt())


def test_unreachable_peers_are_named() -> None:
    address = "/ip4/127.0.0.1/tcp/1/p2p/12D3KooWExeMD52dy9zaakce5QMLJGR7qZxyWjUfRKxYEb1rpoYw"
    with pytest.raises(NodeError, match="cannot reach any of the peers"):
        SwarmModel.from_pretrained(folder_of("llama"), peers=[address])


def test_peers_of_another_checkpoint_with_equal_shapes_are_not_used(zygote: Any) -> None:
    with LocalSwarm(zygote) as swarm:
        swarm.serve(folder_of("llama", seed=1), "0:6", "--threads", "1")
        with pytest.raises(SwarmUnavailable, match=r"another checkpoint|it serves"):
            SwarmModel.from_pretrained(folder_of("llama"), peers=swarm.addresses)
