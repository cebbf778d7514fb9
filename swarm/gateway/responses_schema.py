"""The body of OpenAI's `POST /v1/responses`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import Discriminator, Field, Tag, model_validator

from swarm.gateway.body import (
    Body,
    Metadata,
    Name,
    NewTokens,
    Probability,
    Schema,
    ShortText,
    Temperature,
    Text,
    joined,
)
from swarm.gateway.chat_schema import ObjectFormat, TextFormat, object_of, template_call

ItemStatus = Literal["in_progress", "completed", "incomplete"]


class ContentPart(Body):
    """Text that somebody said; images, sounds and files are refused."""

    type: Literal["input_text", "output_text", "text"]
    text: Text
    annotations: Annotated[list[Any], Field(max_length=0)] | None = None
    logprobs: list[Any] | None = None


class InputMessage(Body):
    """A message, of the user or of an earlier answer."""

    type: Literal["message"] = "message"
    role: Literal["user", "assistant", "system", "developer"]
    content: Text | list[ContentPart]
    id: ShortText | None = None
    status: ItemStatus | None = None
    phase: Literal["commentary", "final_answer"] | None = None

    def as_template(self) -> dict[str, Any]:
        role = "system" if self.role == "developer" else self.role
        return {"role": role, "content": joined(self.content)}


class FunctionCallItem(Body):
    """A call that the model made."""

    type: Literal["function_call"]
    call_id: ShortText
    name: Name
    arguments: Text
    id: ShortText | None = None
    status: ItemStatus | None = None

    @model_validator(mode="after")
    def _is_object(self) -> Self:
        object_of(self.arguments)
        return self

    def as_template(self) -> dict[str, Any]:
        call = template_call(self.call_id, self.name, object_of(self.arguments))
        return {"role": "assistant", "content": "", "tool_calls": [call]}


class FunctionResultItem(Body):
    """What a tool returned."""

    type: Literal["function_call_output"]
    call_id: ShortText
    output: Text | list[ContentPart]
    id: ShortText | None = None
    status: ItemStatus | None = None

    def as_template(self) -> dict[str, Any]:
        return {"role": "tool", "content": joined(self.output), "tool_call_id": self.call_id}


def _kind(item: Any) -> str:
    """Messages need not say that they are messages."""
    found = item.get("type", "message") if isinstance(item, dict) else getattr(item, "type", None)
    return found if isinstance(found, str) else ""


Item = Annotated[
    Annotated[InputMessage, Tag("message")]
    | Annotated[FunctionCallItem, Tag("function_call")]
    | Annotated[FunctionResultItem, Tag("function_call_output")],
    Discriminator(_kind),
]


class ResponseTool(Body):
    """A function that may be called; tools that OpenAI runs itself are unknown here."""

    type: Literal["function"]
    name: Name
    description: Text | None = None
    parameters: Schema | None = None
    strict: bool | None = None


class FunctionChoice(Body):
    """The function that must be called."""

    type: Literal["function"]
    name: Name


class FlatSchemaFormat(Body):
    """JSON that follows a schema."""

    type: Literal["json_schema"]
    name: Name
    description: Text | None = None
    schema_: Schema = Field(alias="schema")
    strict: bool | None = None


class TextConfig(Body):
    """The form of the answer."""

    format: Annotated[TextFormat | ObjectFormat | FlatSchemaFormat, Field(discriminator="type")] | None = None


class ResponseStreamOptions(Body):
    """Nothing of it is needed here."""

    include_obfuscation: Literal[False] = False


class ResponsesRequest(Body):
    """Continue a conversation, which the client keeps: nothing is stored here. Other options are refused."""

    model: Text
    input: Text | Annotated[list[Item], Field(min_length=1)]
    instructions: Text | None = None
    max_output_tokens: NewTokens | None = None
    temperature: Temperature | None = None
    top_p: Probability | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    include: list[Literal["message.output_text.logprobs"]] | None = None
    text: TextConfig | None = None
    tools: Annotated[list[ResponseTool], Field(max_length=128)] | None = None
    tool_choice: Literal["none", "auto", "required"] | FunctionChoice | None = None
    parallel_tool_calls: bool | None = None
    stream: bool | None = None
    stream_options: ResponseStreamOptions | None = None
    store: Literal[False] | None = None
    background: Literal[False] | None = None
    truncation: Literal["disabled"] | None = None
    service_tier: Literal["auto", "default"] | None = None
    user: ShortText | None = None
    safety_identifier: ShortText | None = None
    metadata: Metadata | None = None

    def as_template(self) -> list[dict[str, Any]]:
        """The conversation as chat templates expect it."""
        head = [{"role": "system", "content": self.instructions}] if self.instructions else []
        if isinstance(self.input, str):
            return [*head, {"role": "user", "content": self.input}]
        return head + merged([item.as_template() for item in self.input])

    @property
    def wants_logprobs(self) -> bool:
        return bool(self.include) or self.top_logprobs is not None


def merged(messages: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Calls that follow a message of the assistant, or each other, belong to one message."""
    found: list[dict[str, Any]] = []
    for message in messages:
        last = found[-1] if found else {}
        if message.get("tool_calls") and last.get("role") == "assistant":
            found[-1] = last | {"tool_calls": [*last.get("tool_calls", ()), *message["tool_calls"]]}
        else:
            found.append(message)
    return found
