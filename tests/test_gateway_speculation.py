"""Drafts change nothing of an answer but how fast it comes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from openai import OpenAI

from tests.gateway_lab import LocalModel, local_demo, make_gateway, running

pytestmark = pytest.mark.slow

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
        options = {"max_tokens": 120} | OPTIONS[name]
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
