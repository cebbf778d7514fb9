"""Tool calls that the model makes of its own accord, in all three APIs, streamed and not."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from anthropic import Anthropic
from openai import OpenAI

from tests.gateway_lab import RunningGateway, ScriptedModel, make_gateway, running

pytestmark = pytest.mark.slow

ROME, OSLO = {"place": "Rome"}, {"place": "Oslo"}
TEXT = "Let me look. " + "\n".join(
    f'<tool_call>\n{{"name": "weather", "arguments": {json.dumps(place)}}}\n</tool_call>'
    for place in (ROME, OSLO)
)
ASKED: list[Any] = [{"role": "user", "content": "How is the weather?"}]
SCHEMA: dict[str, Any] = {"type": "object", "properties": {"place": {"type": "string"}}}


@pytest.fixture(scope="module")
def served() -> Iterator[RunningGateway]:
    with running(make_gateway(ScriptedModel(TEXT))) as served:
        yield served


@pytest.mark.parametrize("streams", [False, True], ids=["whole", "stream"])
def test_chat_completions(served: RunningGateway, streams: bool) -> None:
    tool: Any = {"type": "function", "function": {"name": "weather", "parameters": SCHEMA}}
    options: dict[str, Any] = {"model": "demo", "messages": ASKED, "tools": [tool]}
    with OpenAI(base_url=f"{served.url}/v1", api_key="none") as client:
        if streams:
            with client.chat.completions.stream(**options) as stream:
                found: Any = stream.get_final_completion()
        else:
            found = client.chat.completions.create(**options)
    (choice,) = found.choices
    assert choice.finish_reason == "tool_calls"
    assert choice.message.content == "Let me look. "
    assert [json.loads(call.function.arguments) for call in choice.message.tool_calls] == [ROME, OSLO]
    assert len({call.id for call in choice.message.tool_calls}) == 2


@pytest.mark.parametrize("streams", [False, True], ids=["whole", "stream"])
def test_messages(served: RunningGateway, streams: bool) -> None:
    tool: Any = {"name": "weather", "input_schema": SCHEMA}
    options: dict[str, Any] = {"model": "demo", "messages": ASKED, "tools": [tool], "max_tokens": 500}
    with Anthropic(base_url=served.url, api_key="none") as client:
        if streams:
            with client.messages.stream(**options) as stream:
                found: Any = stream.get_final_message()
        else:
            found = client.messages.create(**options)
    assert found.stop_reason == "tool_use"
    assert [block.type for block in found.content] == ["text", "tool_use", "tool_use"]
    assert [block.input for block in found.content[1:]] == [ROME, OSLO]


@pytest.mark.parametrize("streams", [False, True], ids=["whole", "stream"])
def test_responses(served: RunningGateway, streams: bool) -> None:
    tool: Any = {"type": "function", "name": "weather", "parameters": SCHEMA, "strict": False}
    options: dict[str, Any] = {"model": "demo", "input": ASKED, "tools": [tool]}
    with OpenAI(base_url=f"{served.url}/v1", api_key="none") as client:
        if streams:
            with client.responses.stream(**options) as stream:
                found: Any = stream.get_final_response()
        else:
            found = client.responses.create(**options)
    assert [item.type for item in found.output] == ["message", "function_call", "function_call"]
    assert found.output_text == "Let me look. "
    assert [json.loads(item.arguments) for item in found.output[1:]] == [ROME, OSLO]


def test_without_tools_the_same_text_is_text(served: RunningGateway) -> None:
    with OpenAI(base_url=f"{served.url}/v1", api_key="none") as client:
        found = client.chat.completions.create(model="demo", messages=ASKED)
    assert found.choices[0].message.content == TEXT
    assert found.choices[0].message.tool_calls is None
