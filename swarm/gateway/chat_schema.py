"""The body of `POST /v1/chat/completions`."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from swarm.gateway.body import (
    Bias,
    Body,
    Count,
    Metadata,
    Name,
    NewTokens,
    Penalty,
    Probability,
    Schema,
    Seed,
    ShortText,
    Stop,
    Stops,
    Temperature,
    Text,
    TextPart,
    TopK,
    joined,
)


class FunctionCall(Body):
    """A call as the model made it; `arguments` is the text of a JSON object."""

    name: Name
    arguments: Text


class MadeCall(Body):
    """A tool call in an assistant's message."""

    id: ShortText
    type: Literal["function"] = "function"
    function: FunctionCall


class SystemMessage(Body):
    """What the model is told about its task."""

    role: Literal["system", "developer"]
    content: Text | list[TextPart]
    name: ShortText | None = None

    def as_template(self) -> dict[str, Any]:
        return {"role": "system", "content": joined(self.content)}


class UserMessage(Body):
    """What the user said."""

    role: Literal["user"]
    content: Text | list[TextPart]
    name: ShortText | None = None

    def as_template(self) -> dict[str, Any]:
        return {"role": "user", "content": joined(self.content)}


class AssistantMessage(Body):
    """What the model said."""

    role: Literal["assistant"]
    content: Text | list[TextPart] | None = None
    name: ShortText | None = None
    refusal: None = None
    audio: None = None
    function_call: None = None
    annotations: list[Any] | None = Field(default=None, max_length=0)
    tool_calls: list[MadeCall] | None = None

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if self.content is None and not self.tool_calls:
            raise ValueError("an assistant's message needs content or tool_calls")
        for call in self.tool_calls or ():
            object_of(call.function.arguments)
        return self

    def as_template(self) -> dict[str, Any]:
        made: dict[str, Any] = {"role": "assistant", "content": joined(self.content)}
        if self.tool_calls:
            made["tool_calls"] = [
                template_call(call.id, call.function.name, object_of(call.function.arguments))
                for call in self.tool_calls
            ]
        return made


class ToolMessage(Body):
    """What a tool returned."""

    role: Literal["tool"]
    content: Text | list[TextPart]
    tool_call_id: ShortText

    def as_template(self) -> dict[str, Any]:
        return {"role": "tool", "content": joined(self.content), "tool_call_id": self.tool_call_id}


Message = Annotated[SystemMessage | UserMessage | AssistantMessage | ToolMessage, Field(discriminator="role")]


class Function(Body):
    """A function that may be called."""

    name: Name
    description: Text | None = None
    parameters: Schema = Field(default_factory=lambda: {"type": "object", "properties": {}})
    strict: bool | None = None


class FunctionTool(Body):
    """A tool; only functions are known."""

    type: Literal["function"]
    function: Function


class NamedFunction(Body):
    """The function that must be called."""

    name: Name


class NamedChoice(Body):
    """The tool that must be called."""

    type: Literal["function"]
    function: NamedFunction


class TextFormat(Body):
    """Any text."""

    type: Literal["text"]


class ObjectFormat(Body):
    """Any JSON object."""

    type: Literal["json_object"]


class NamedSchema(Body):
    """A JSON schema with its name."""

    name: Name
    description: Text | None = None
    schema_: Schema = Field(alias="schema", default_factory=dict)
    strict: bool | None = None


class SchemaFormat(Body):
    """JSON that follows a schema."""

    type: Literal["json_schema"]
    json_schema: NamedSchema


Format = Annotated[TextFormat | ObjectFormat | SchemaFormat, Field(discriminator="type")]


class StreamOptions(Body):
    """What a stream has besides the text."""

    include_usage: bool = False
    include_obfuscation: Literal[False] = False


class ChatRequest(Body):
    """Continue a conversation. Options of the API that are not here are refused."""

    model: Text
    messages: Annotated[list[Message], Field(min_length=1)]
    max_tokens: NewTokens | None = None
    max_completion_tokens: NewTokens | None = None
    temperature: Temperature | None = None
    top_p: Probability | None = None
    top_k: TopK | None = None
    frequency_penalty: Penalty | None = None
    presence_penalty: Penalty | None = None
    logit_bias: Bias | None = None
    seed: Seed | None = None
    stop: Stop | Stops | None = None
    n: Count | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    response_format: Format | None = None
    tools: Annotated[list[FunctionTool], Field(max_length=128)] | None = None
    tool_choice: Literal["none", "auto", "required"] | NamedChoice | None = None
    parallel_tool_calls: bool | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    user: ShortText | None = None
    safety_identifier: ShortText | None = None
    metadata: Metadata | None = None
    store: Literal[False] | None = None
    service_tier: Literal["auto", "default"] | None = None
    modalities: Annotated[list[Literal["text"]], Field(min_length=1, max_length=1)] | None = None

    @model_validator(mode="after")
    def _options_agree(self) -> Self:
        if self.max_tokens is not None and self.max_completion_tokens is not None:
            raise ValueError("max_tokens and max_completion_tokens mean the same: give one of them")
        if self.top_logprobs is not None and not self.logprobs:
            raise ValueError("top_logprobs needs logprobs: true")
        if self.stream_options is not None and not self.stream:
            raise ValueError("stream_options needs stream: true")
        return self


def object_of(text: str) -> dict[str, Any]:
    """The JSON object in a call's arguments.

    Raises:
        ValueError: there is none.
    """
    try:
        found = json.loads(text or "{}")
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise ValueError("the arguments of a tool call must be the text of a JSON object")
    return found


def template_call(call_id: str, name: str, arguments: dict[str, Any]) -> dict[str, Any]:
    """A made call as chat templates expect it."""
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}
