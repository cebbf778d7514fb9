"""A generation's own session, which another thread watches and cuts."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaForCausalLM, Mamba2ForCausalLM

from swarm import SwarmModel
from swarm.bench.timed import AtToken
from swarm.core.errors import Interrupted
from swarm.shards.causal import cache_argument
from tests.peers import LocalSwarm
from tests.shard_lab import folder_of, prompt
from tests.swarm_records import wait_all_free

pytestmark = [pytest.mark.slow, pytest.mark.network]


@pytest.fixture(scope="module")
def swarm(zygote: Any) -> Iterator[LocalSwarm]:
    with LocalSwarm(zygote) as swarm:
        for span in ("0:3", "3:6"):
            swarm.serve(folder_of("llama"), span, "--threads", "1")
        yield swarm


@pytest.fixture(scope="module")
def model(swarm: LocalSwarm) -> Iterator[SwarmModel]:
    with SwarmModel.from_pretrained(folder_of("llama"), peers=swarm.addresses[:1]) as model:
        yield model


def generate(model: SwarmModel, arguments: dict[str, Any], action: Any = None) -> Any:
    criteria = [AtToken(4, action)] if action is not None else []
    return model.generate(
        prompt(),
        max_new_tokens=20,
        min_new_tokens=20,
        pad_token_id=0,
        stopping_criteria=criteria,
        **arguments,
    )


def test_a_generation_on_a_line_is_the_same_as_without(model: SwarmModel) -> None:
    spans: list[str] = []

    def look() -> None:
        assert line.chain is not None
        spans.extend(str(hop.span) for hop in line.chain.hops)

    with model.line(64) as line:
        assert line.chain is None
        found = generate(model, line.arguments, look)
        assert line.profile.steps == 19
        assert len(line.profile.hops) == len(line.profile.latest) == 2
    assert spans == ["0:3", "3:6"]
    assert torch.equal(found, generate(model, {}))


def test_all_positions_are_encoded_also_after_a_generation(model: SwarmModel) -> None:
    generate(model, {})
    with model.line(64) as line:
        found = model.encode(prompt(), **line.arguments)
    auto: Any = AutoModelForCausalLM
    local = auto.from_pretrained(folder_of("llama"), dtype=torch.float32)
    with torch.no_grad():
        assert torch.allclose(found, local.model(prompt())[0], atol=1e-4)


def test_an_interrupted_generation_ends_and_leaves_nothing(model: SwarmModel, swarm: LocalSwarm) -> None:
    line = model.line(64)
    with pytest.raises(Interrupted), line:
        generate(model, line.arguments, line.interrupt)
    wait_all_free(swarm.addresses)
    with pytest.raises(Interrupted):
        generate(model, line.arguments)
    assert generate(model, {}).shape[1] > 20


def test_a_step_that_hangs_is_interrupted_by_another_thread(model: SwarmModel, swarm: LocalSwarm) -> None:
    peer = swarm.peers[-1]

    def hang() -> None:
        peer.suspend()
        threading.Timer(0.2, line.interrupt).start()

    try:
        with model.line(64) as line, pytest.raises(Interrupted):
            generate(model, line.arguments, hang)
    finally:
        peer.resume()
    wait_all_free(swarm.addresses)


def test_models_take_their_cache_under_their_own_name() -> None:
    assert cache_argument(LlamaForCausalLM) == "past_key_values"
    assert cache_argument(Mamba2ForCausalLM) == "cache_params"
