"""OpenAI's responses, completions and embeddings over HTTP, asked by the official client."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from openai import OpenAI

from tests.gateway_lab import LocalModel, RunningGateway, demo_tokenizer, local_text, make_gateway, running

pytestmark = pytest.mark.slow

SUM = "What is 12 + 30?"
STORY = "Tell me a story about Lily."
TOOL: dict[str, Any] = {
    "type": "function",
    "name": "weather",
    "parameters": {
        "type": "object",
        "properties": {"place": {"enum": ["Rome", "Oslo"]}},
        "required": ["place"],
        "additionalProperties": False,
    },
    "strict": True,
}


@pytest.fixture(scope="module")
def served() -> Iterator[RunningGateway]:
    with running(make_gateway(LocalModel())) as served:
        yield served


@pytest.fixture(scope="module")
def client(served: RunningGateway) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{served.url}/v1", api_key="none", max_retries=0) as client:
        yield client


def as_chat(text: str) -> list[Any]:
    return [{"role": "user", "content": text}]


def test_a_response_is_the_local_models(client: OpenAI) -> None:
    found = client.responses.create(model="demo", input=SUM)
    assert found.output_text == "12 + 30 = 42"
    assert found.status == "completed"
    assert found.usage is not None
    assert found.usage.input_tokens == 13


def test_a_streamed_response_is_the_same_text(client: OpenAI) -> None:
    with client.responses.stream(model="demo", input=STORY, max_output_tokens=50) as stream:
        events: list[Any] = list(stream)
    final = events[-1].response
    assert final.output_text == local_text(as_chat(STORY), 50)
    assert final.status == "incomplete"
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert {event.type for event in events} >= {
        "response.created",
        "response.output_item.added",
        "response.content_part.added",
        "response.output_text.delta",
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.incomplete",
    }


def test_a_conversation_is_the_clients_to_keep(client: OpenAI) -> None:
    first = client.responses.create(model="demo", input=SUM, instructions="Be short and kind.")
    items: Any = [
        *as_chat(SUM),
        *(item.model_dump(exclude_none=True) for item in first.output),
        {"role": "user", "content": [{"type": "input_text", "text": "What is 1 + 1?"}]},
    ]
    second = client.responses.create(model="demo", input=items)
    chat = [*as_chat(SUM), {"role": "assistant", "content": first.output_text}, *as_chat("What is 1 + 1?")]
    assert second.output_text == local_text(chat, 20)


@pytest.mark.parametrize("streams", [False, True], ids=["whole", "stream"])
def test_a_function_is_called_and_its_result_taken(client: OpenAI, streams: bool) -> None:
    options: dict[str, Any] = {"model": "demo", "tools": [TOOL], "max_output_tokens": 60}
    if streams:
        with client.responses.stream(**options, input=SUM, tool_choice="required") as stream:
            first: Any = stream.get_final_response()
    else:
        first = client.responses.create(**options, input=SUM, tool_choice="required")
    (call,) = first.output
    assert json.loads(call.arguments)["place"] in ("Rome", "Oslo")
    result = {"type": "function_call_output", "call_id": call.call_id, "output": "sunny"}
    items: Any = [*as_chat(SUM), call.model_dump(exclude_none=True, exclude={"parsed_arguments"}), result]
    assert client.responses.create(**options, input=items).usage is not None


def test_a_response_follows_a_schema(client: OpenAI) -> None:
    schema = {
        "type": "object",
        "properties": {"sum": {"type": "integer", "minimum": 0, "maximum": 99}},
        "required": ["sum"],
        "additionalProperties": False,
    }
    form: Any = {"format": {"type": "json_schema", "name": "answer", "schema": schema, "strict": True}}
    found = client.responses.create(model="demo", input=SUM, text=form)
    assert 0 <= json.loads(found.output_text)["sum"] <= 99


@pytest.mark.parametrize(
    "options",
    [
        {"previous_response_id": "resp_1"},
        {"store": True},
        {"background": True},
        {"tools": [{"type": "web_search"}]},
    ],
    ids=lambda options: next(iter(options)),
)
def test_what_needs_a_store_or_other_servers_is_refused(client: OpenAI, options: Any) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.responses.create(model="demo", input=SUM, **options)
    assert str(caught.value.param).startswith(next(iter(options)))


def test_completions_continue_several_prompts_in_order(client: OpenAI) -> None:
    found = client.completions.create(model="demo", prompt=["12 + 7 =", "20 + 3 ="], max_tokens=4, n=2)
    assert [choice.index for choice in found.choices] == [0, 1, 2, 3]
    assert [choice.text.strip() for choice in found.choices] == ["19", "19", "23", "23"]


def test_completions_take_token_ids_and_stream(client: OpenAI) -> None:
    ids = demo_tokenizer()("12 + 7 =")["input_ids"]
    stream: Any = client.completions.create(
        model="demo",
        prompt=ids,
        max_tokens=4,
        stream=True,
        logprobs=2,
        stream_options={"include_usage": True},
    )
    chunks = list(stream)
    assert "".join(choice.text for chunk in chunks for choice in chunk.choices).strip() == "19"
    assert chunks[-1].usage.completion_tokens == 4
    offsets = [
        o for chunk in chunks for c in chunk.choices for o in (c.logprobs.text_offset if c.logprobs else [])
    ]
    assert offsets == sorted(offsets)
    assert len(offsets) >= 2


def test_a_completion_without_max_tokens_is_short(client: OpenAI) -> None:
    found = client.completions.create(model="demo", prompt="Once upon a time")
    assert found.usage is not None
    assert found.usage.completion_tokens == 16
    assert found.choices[0].finish_reason == "length"


@pytest.mark.parametrize("options", [{"prompt": []}, {"prompt": [9999]}, {"best_of": 3}, {"suffix": "x"}])
def test_completions_that_cannot_be_made_are_refused(client: OpenAI, options: Any) -> None:
    with pytest.raises(openai.BadRequestError):
        client.completions.create(**{"model": "demo", "prompt": "x"} | options)


def test_a_model_that_writes_text_makes_no_embeddings(client: OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.embeddings.create(model="demo", input="x")
    assert caught.value.code == "unsupported_model"
