"""OpenAI's chat completions over HTTP, asked by the official client."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from openai import OpenAI
from openai.types.chat import ChatCompletion

from tests.gateway_lab import LocalModel, RunningGateway, demo_tokenizer, local_text, make_gateway, running

pytestmark = pytest.mark.slow

SUM: list[Any] = [{"role": "user", "content": "What is 12 + 30?"}]
STORY: list[Any] = [{"role": "user", "content": "Tell me a story about Lily."}]
WEATHER: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "How the weather is.",
        "parameters": {
            "type": "object",
            "properties": {"place": {"enum": ["Rome", "Oslo"]}, "days": {"type": "integer", "maximum": 9}},
            "required": ["place", "days"],
            "additionalProperties": False,
        },
    },
}


@pytest.fixture(scope="module")
def served() -> Iterator[RunningGateway]:
    with running(make_gateway(LocalModel())) as served:
        yield served


@pytest.fixture(scope="module")
def client(served: RunningGateway) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{served.url}/v1", api_key="none", max_retries=0) as client:
        yield client


def streamed(client: OpenAI, **options: Any) -> tuple[str, str | None, Any]:
    """Text, finish reason and usage of a stream."""
    text, finish, usage = "", None, None
    stream: Any = client.chat.completions.create(
        model="demo", stream=True, stream_options={"include_usage": True}, **options
    )
    for chunk in stream:
        usage = chunk.usage or usage
        for choice in chunk.choices:
            text += choice.delta.content or ""
            finish = choice.finish_reason or finish
    return text, finish, usage


def ask(client: OpenAI, messages: list[Any], **options: Any) -> ChatCompletion:
    found: ChatCompletion = client.chat.completions.create(model="demo", messages=messages, **options)
    return found


def test_an_answer_is_the_local_models(client: OpenAI) -> None:
    found = ask(client, SUM)
    assert found.choices[0].message.content == "12 + 30 = 42"
    assert found.choices[0].finish_reason == "stop"
    assert found.usage is not None
    assert found.usage.prompt_tokens == 13
    assert found.usage.total_tokens == found.usage.prompt_tokens + found.usage.completion_tokens


def test_a_stream_is_the_same_text(client: OpenAI) -> None:
    whole = ask(client, STORY, max_tokens=60)
    text, finish, usage = streamed(client, messages=STORY, max_tokens=60)
    assert text == whole.choices[0].message.content == local_text(STORY, 60)
    assert finish == whole.choices[0].finish_reason == "length"
    assert usage == whole.usage


def test_text_ends_before_a_stop_text(client: OpenAI) -> None:
    full = local_text(STORY, 60)
    stop = full[30:36]
    found = ask(client, STORY, max_tokens=60, stop=["never comes", stop])
    assert found.choices[0].message.content == full[: full.index(stop)]
    assert found.choices[0].finish_reason == "stop"
    assert streamed(client, messages=STORY, max_tokens=60, stop=stop)[:2] == (
        full[: full.index(stop)],
        "stop",
    )


def test_the_same_seed_gives_the_same_text_also_beside_others(client: OpenAI) -> None:
    options = {"messages": STORY, "max_tokens": 30, "temperature": 1.5, "seed": 11}
    several = ask(client, STORY, max_tokens=30, temperature=1.5, seed=11, n=3)
    texts = [choice.message.content for choice in several.choices]
    assert len(set(texts)) == 3
    assert texts[0] == streamed(client, **options)[0] == streamed(client, **options)[0]


def test_probabilities_are_reported_for_the_tokens_of_the_text(client: OpenAI) -> None:
    found = ask(client, SUM, logprobs=True, top_logprobs=3)
    content = found.choices[0].logprobs and found.choices[0].logprobs.content
    assert content
    assert "".join(token.token for token in content) == "12 + 30 = 42"
    assert all(len(token.top_logprobs) == 3 for token in content)
    assert all(token.logprob == max(top.logprob for top in token.top_logprobs) for token in content)


def test_tokens_after_a_stop_text_are_not_reported(client: OpenAI) -> None:
    found = ask(client, SUM, logprobs=True, stop=" =")
    content = found.choices[0].logprobs and found.choices[0].logprobs.content
    assert content
    assert "".join(token.token for token in content) == found.choices[0].message.content == "12 + 30"


def test_a_bias_forbids_a_token(client: OpenAI) -> None:
    token = demo_tokenizer()("1", add_special_tokens=False)["input_ids"][0]
    found = ask(client, SUM, logit_bias={str(token): -100}, max_tokens=12)
    assert "1" not in (found.choices[0].message.content or "")


def test_penalties_change_what_repeats(client: OpenAI) -> None:
    plain, punished = (
        ask(client, STORY, max_tokens=80, frequency_penalty=penalty).choices[0].message.content or ""
        for penalty in (0, 2)
    )
    assert plain != punished


def test_an_answer_follows_a_schema(client: OpenAI) -> None:
    schema = {
        "type": "object",
        "properties": {"sum": {"type": "integer", "minimum": 0, "maximum": 99}, "odd": {"type": "boolean"}},
        "required": ["sum", "odd"],
        "additionalProperties": False,
    }
    form = {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema, "strict": True}}
    found = json.loads(ask(client, SUM, response_format=form).choices[0].message.content or "")
    assert set(found) == {"sum", "odd"}
    assert 0 <= found["sum"] <= 99


def test_any_json_object(client: OpenAI) -> None:
    found = ask(client, SUM, response_format={"type": "json_object"}, max_tokens=300, temperature=2.0, seed=1)
    text = found.choices[0].message.content or ""
    assert text.startswith("{")
    if found.choices[0].finish_reason == "stop":
        assert isinstance(json.loads(text), dict)


@pytest.mark.parametrize(
    "choice", ["required", {"type": "function", "function": {"name": "weather"}}], ids=["any", "named"]
)
def test_a_tool_that_must_be_called_is_called(client: OpenAI, choice: Any) -> None:
    found = ask(client, SUM, tools=[WEATHER], tool_choice=choice).choices[0]
    assert found.finish_reason == "tool_calls"
    assert found.message.content is None
    assert found.message.tool_calls
    call: Any = found.message.tool_calls[0]
    assert call.function.name == "weather"
    assert json.loads(call.function.arguments)["place"] in ("Rome", "Oslo")


def test_a_streamed_tool_call_is_the_same(client: OpenAI) -> None:
    whole: Any = ask(client, SUM, tools=[WEATHER], tool_choice="required").choices[0].message.tool_calls
    options: dict[str, Any] = {"messages": SUM, "tools": [WEATHER], "tool_choice": "required"}
    stream: Any = client.chat.completions.create(model="demo", stream=True, **options)
    choices = [chunk.choices[0] for chunk in stream]
    calls = [call for choice in choices for call in choice.delta.tool_calls or ()]
    assert [(call.index, call.function.name, call.function.arguments) for call in calls] == [
        (0, "weather", whole[0].function.arguments)
    ]
    assert choices[-1].finish_reason == "tool_calls"


def test_a_conversation_goes_on_after_a_tool_call(client: OpenAI) -> None:
    first = ask(client, SUM, tools=[WEATHER], tool_choice="required").choices[0].message
    assert first.tool_calls
    result = {"role": "tool", "tool_call_id": first.tool_calls[0].id, "content": "sunny"}
    found = ask(client, [*SUM, first.model_dump(exclude_none=True), result], tools=[WEATHER], max_tokens=8)
    assert found.usage is not None
    assert found.usage.completion_tokens <= 8


def test_models_are_listed(client: OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["demo"]
    assert client.models.retrieve("demo").owned_by == "layerswarm"
    with pytest.raises(openai.NotFoundError) as caught:
        client.models.retrieve("gpt-9")
    assert caught.value.code == "model_not_found"


@pytest.mark.parametrize(
    ("options", "param"),
    [
        ({"temperature": 3}, "temperature"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": 4096}, "max_tokens"),
        ({"extra_body": {"reasoning_effort": "low"}}, "reasoning_effort"),
        ({"store": True}, "store"),
        ({"logit_bias": {"512": 1}}, "logit_bias"),
        ({"tool_choice": "required"}, "tool_choice"),
        (
            {
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {"name": "x", "schema": {"type": "?"}},
                }
            },
            "response_format",
        ),
    ],
    ids=lambda value: "" if isinstance(value, dict) else value,
)
def test_what_cannot_be_done_is_refused_by_name(client: OpenAI, options: Any, param: str) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        ask(client, SUM, **options)
    assert caught.value.param == param
    assert caught.value.type == "invalid_request_error"


@pytest.mark.parametrize(
    "messages",
    [
        [],
        [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:,"}}]}],
        [{"role": "assistant"}],
        [{"role": "nobody", "content": "x"}],
    ],
)
def test_messages_that_cannot_be_read_are_refused(client: OpenAI, messages: list[Any]) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        ask(client, messages)
    assert str(caught.value.param).startswith("messages")


def test_a_prompt_that_is_too_long_says_so(client: OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        ask(client, [{"role": "user", "content": "12 " * 1000}])
    assert caught.value.code == "context_length_exceeded"
