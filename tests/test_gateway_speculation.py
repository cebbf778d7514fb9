"""Drafts change nothing of an answer but how fast it comes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from openai import OpenAI

from swarm import SwarmModel
from tests.gateway_lab import LocalModel, local_demo, local_text, make_gateway, running
from tests.peers import LocalSwarm
from tests.processes import Zygote

pytestmark = pytest.mark.slow

TOKENS = 120
KILL_AT = 12  # pieces of text

STORY: list[Any] = [{"role": "user", "content": "Tell me a story about Lily."}]
NUMBERS = {
    "type": "object",
    "properties": {"n": {"type": "array", "items": {"enum": [12, 30]}, "minItems": 9, "maxItems": 9}},
    "required": ["n"],
    "additionalProperties": False,
}
OPTIONS: dict[str, dict[str, Any]] = {
    "greedy": {},
    "sampled": {"temperature": 0.9, "top_p": 0.95, "seed": 7, "n": 3},
    "barely sampled": {"temperature": 0.05, "seed": 1},
    "probabilities": {"logprobs": True, "top_logprobs": 2},
    "penalties": {"frequency_penalty": 0.5, "presence_penalty": 0.3},
    "stop": {"stop": ["reach"], "logprobs": True},
    "schema": {"response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": NUMBERS}}},
    "short": {"max_tokens": 5},
}


@pytest.fixture(scope="module")
def clients() -> Iterator[tuple[OpenAI, OpenAI]]:
    """Of a gateway that takes token after token, and of one that drafts."""
    with (
        running(make_gateway(LocalModel())) as plain,
        running(make_gateway(LocalModel(), speculates=True)) as drafting,
        OpenAI(base_url=f"{plain.url}/v1", api_key="none", max_retries=0) as first,
        OpenAI(base_url=f"{drafting.url}/v1", api_key="none", max_retries=0) as second,
    ):
        yield first, second


@pytest.mark.parametrize("name", OPTIONS)
def test_the_answer_is_the_same(clients: tuple[OpenAI, OpenAI], name: str) -> None:
    def ask(client: OpenAI) -> tuple[list[Any], Any]:
        options = {"max_tokens": TOKENS} | OPTIONS[name]
        found = client.chat.completions.create(model="demo", messages=STORY, **options)
        return [choice.model_dump(exclude={"logprobs"}) for choice in found.choices], found

    (plain, first), (drafted, second) = map(ask, clients)
    assert drafted == plain
    assert second.usage == first.usage
    if OPTIONS[name].get("logprobs"):
        reports = [found.choices[0].logprobs.content for found in (first, second)]
        assert [token.token for token in reports[1]] == [token.token for token in reports[0]]
        assert [t.logprob for t in reports[1]] == pytest.approx([t.logprob for t in reports[0]], abs=1e-3)


def test_drafts_are_tried_and_some_hold(clients: tuple[OpenAI, OpenAI]) -> None:
    stats = local_demo().speculation._stats
    before = stats.drafted_tokens, stats.accepted_tokens
    clients[1].chat.completions.create(model="demo", messages=STORY, max_tokens=60, **OPTIONS["schema"])
    accepted = stats.accepted_tokens - before[1]
    assert 0 < accepted < stats.drafted_tokens - before[0]


@pytest.mark.network
def test_drafts_over_a_swarm_survive_the_death_of_a_peer(zygote: Zygote) -> None:
    with LocalSwarm(zygote) as swarm:
        peers = [swarm.serve("demo", span, "--threads", "1") for span in ("0:3", "3:6", "6:8", "3:6")]
        with (
            SwarmModel.from_pretrained("demo", peers=swarm.addresses[:1]) as model,
            running(make_gateway(model, speculates=True)) as served,
            OpenAI(base_url=f"{served.url}/v1", api_key="none", max_retries=0) as client,
        ):
            raw = client.chat.completions.with_raw_response.create(
                model="demo", messages=STORY, max_tokens=TOKENS, stream=True
            )
            middle = raw.headers["x-swarm-chain"].split(", ")[1].partition("=")[0]
            text = ""
            for count, chunk in enumerate(raw.parse()):
                text += chunk.choices[0].delta.content or ""
                if count == KILL_AT:
                    next(peer for peer in peers if peer.peer_id == middle).kill()
            assert text == local_text(STORY, TOKENS)
            assert model.stats.failovers > 0
            assert model.stats.drafted_tokens > 0
