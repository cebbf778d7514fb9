"""Anthropic's messages over HTTP, asked by the official client."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import anthropic
import pytest
from anthropic import Anthropic

from tests.gateway_lab import LocalModel, RunningGateway, local_text, make_gateway, running

pytestmark = pytest.mark.slow

SUM: list[Any] = [{"role": "user", "content": "What is 12 + 30?"}]
STORY: list[Any] = [{"role": "user", "content": "Tell me a story about Lily."}]
TOOL: dict[str, Any] = {
    "name": "weather",
    "description": "How the weather is.",
    "input_schema": {
        "type": "object",
        "properties": {"place": {"enum": ["Rome", "Oslo"]}},
        "required": ["place"],
        "additionalProperties": False,
    },
}


@pytest.fixture(scope="module")
def served() -> Iterator[RunningGateway]:
    with running(make_gateway(LocalModel())) as served:
        yield served


@pytest.fixture(scope="module")
def client(served: RunningGateway) -> Iterator[Anthropic]:
    with Anthropic(base_url=served.url, api_key="none", max_retries=0) as client:
        yield client


def ask(client: Anthropic, said: list[Any], **options: Any) -> Any:
    values: dict[str, Any] = {"model": "demo", "max_tokens": 40, "messages": said}
    return client.messages.create(**values | options)


def test_an_answer_is_the_local_models(client: Anthropic) -> None:
    found = ask(client, SUM)
    assert [block.text for block in found.content] == ["12 + 30 = 42"]
    assert (found.stop_reason, found.stop_sequence) == ("end_turn", None)
    assert found.usage.input_tokens == 13


def test_a_stream_is_the_same_text(client: Anthropic) -> None:
    with client.messages.stream(model="demo", max_tokens=60, messages=STORY) as stream:
        text = "".join(stream.text_stream)
        final = stream.get_final_message()
    assert text == local_text(STORY, 60)
    assert final.stop_reason == "max_tokens"
    assert final.usage.output_tokens == 60


@pytest.mark.parametrize("streams", [False, True], ids=["whole", "stream"])
def test_a_stop_sequence_is_named(client: Anthropic, streams: bool) -> None:
    options: dict[str, Any] = {
        "model": "demo",
        "max_tokens": 60,
        "messages": SUM,
        "stop_sequences": ["9", " ="],
    }
    if streams:
        with client.messages.stream(**options) as stream:
            found: Any = stream.get_final_message()
    else:
        found = client.messages.create(**options)
    assert found.content[0].text == "12 + 30"
    assert (found.stop_reason, found.stop_sequence) == ("stop_sequence", " =")


def test_a_system_prompt_is_part_of_the_prompt(client: Anthropic) -> None:
    system = [{"type": "text", "text": "Be short and kind.", "cache_control": {"type": "ephemeral"}}]
    assert ask(client, SUM, system=system).usage.input_tokens > ask(client, SUM).usage.input_tokens


@pytest.mark.parametrize(
    "choice", [{"type": "any"}, {"type": "tool", "name": "weather"}], ids=["any", "named"]
)
@pytest.mark.parametrize("streams", [False, True], ids=["whole", "stream"])
def test_a_tool_that_must_be_called_is_called(client: Anthropic, choice: Any, streams: bool) -> None:
    options: dict[str, Any] = {
        "model": "demo", "max_tokens": 60, "messages": SUM, "tools": [TOOL], "tool_choice": choice
    }  # fmt: skip
    if streams:
        with client.messages.stream(**options) as stream:
            found: Any = stream.get_final_message()
    else:
        found = client.messages.create(**options)
    (block,) = found.content
    assert (block.type, block.name) == ("tool_use", "weather")
    assert block.input["place"] in ("Rome", "Oslo")
    assert found.stop_reason == "tool_use"


def test_a_conversation_goes_on_after_a_tool_call(client: Anthropic) -> None:
    first = ask(client, SUM, tools=[TOOL], tool_choice={"type": "any"})
    turns = [
        {"role": "assistant", "content": [block.model_dump(exclude_none=True) for block in first.content]},
        {
            "role": "user",
            "content": [
                {"type": "tool_result", "tool_use_id": first.content[0].id, "content": "sunny"},
                {"type": "text", "text": "Is that warm?"},
            ],
        },
    ]
    assert ask(client, [*SUM, *turns], tools=[TOOL]).usage.output_tokens > 0


def test_tokens_are_counted_as_they_are_used(client: Anthropic) -> None:
    counted = client.messages.count_tokens(model="demo", messages=STORY, tools=[TOOL])  # type: ignore[list-item]
    assert counted.input_tokens == ask(client, STORY, tools=[TOOL], max_tokens=1).usage.input_tokens


def test_models_look_as_anthropics_do(client: Anthropic) -> None:
    (model,) = client.models.list().data
    assert (model.id, model.type) == ("demo", "model")


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": 5000}, "max_tokens"),
        ({"thinking": {"type": "enabled", "budget_tokens": 1024}}, "thinking"),
        ({"extra_body": {"container": "x"}}, "container"),
        ({"tool_choice": {"type": "any"}}, "tool_choice"),
        ({"messages": [{"role": "user", "content": [{"type": "image", "source": {}}]}]}, "messages"),
    ],
)
def test_what_cannot_be_done_is_refused_by_name(client: Anthropic, options: Any, named: str) -> None:
    with pytest.raises(anthropic.BadRequestError) as caught:
        ask(client, SUM, **options)
    assert caught.value.type == "invalid_request_error"
    assert named in str(caught.value.api_message)


def test_an_unknown_model_is_not_found(client: Anthropic) -> None:
    with pytest.raises(anthropic.NotFoundError) as caught:
        ask(client, SUM, model="claude-9")
    assert caught.value.type == "not_found_error"
