"""The body of Anthropic's `POST /v1/messages` and `/v1/messages/count_tokens`."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

from pydantic import Field

from swarm.gateway.body import (
    Body,
    Name,
    NewTokens,
    Probability,
    Schema,
    ShortText,
    Stops,
    Temperature,
    Text,
    TopK,
    joined,
)
from swarm.gateway.chat_schema import template_call


class CacheControl(Body):
    """A hint that costs and saves nothing here: peers keep what they can by themselves."""

    type: Literal["ephemeral"]
    ttl: Literal["5m", "1h"] | None = None


class Block(Body):
    """What all blocks may have."""

    cache_control: CacheControl | None = None


class TextBlock(Block):
    """Text."""

    type: Literal["text"]
    text: Text
    citations: Annotated[list[Any], Field(max_length=0)] | None = None


class ToolUseBlock(Block):
    """A call that the model made."""

    type: Literal["tool_use"]
    id: ShortText
    name: Name
    input: dict[str, Any]
    caller: dict[str, Any] | None = None


class ToolResultBlock(Block):
    """What a tool returned."""

    type: Literal["tool_result"]
    tool_use_id: ShortText
    content: Text | list[TextBlock] | None = None
    is_error: bool | None = None


UserBlock = Annotated[TextBlock | ToolResultBlock, Field(discriminator="type")]
AssistantBlock = Annotated[TextBlock | ToolUseBlock, Field(discriminator="type")]


class UserTurn(Body):
    """What the user said, and what tools returned."""

    role: Literal["user"]
    content: Text | Annotated[list[UserBlock], Field(min_length=1)]

    def as_template(self) -> list[dict[str, Any]]:
        if isinstance(self.content, str):
            return [{"role": "user", "content": self.content}]
        results = [
            {"role": "tool", "content": joined(block.content), "tool_call_id": block.tool_use_id}
            for block in self.content
            if isinstance(block, ToolResultBlock)
        ]
        texts = [block for block in self.content if isinstance(block, TextBlock)]
        return results + ([{"role": "user", "content": joined(texts)}] if texts else [])


class AssistantTurn(Body):
    """What the model said."""

    role: Literal["assistant"]
    content: Text | Annotated[list[AssistantBlock], Field(min_length=1)]

    def as_template(self) -> list[dict[str, Any]]:
        if isinstance(self.content, str):
            return [{"role": "assistant", "content": self.content}]
        made: dict[str, Any] = {
            "role": "assistant",
            "content": joined([block for block in self.content if isinstance(block, TextBlock)]),
        }
        calls = [
            template_call(block.id, block.name, block.input)
            for block in self.content
            if isinstance(block, ToolUseBlock)
        ]
        return [made | ({"tool_calls": calls} if calls else {})]


Turn = Annotated[UserTurn | AssistantTurn, Field(discriminator="role")]


class MessageTool(Block):
    """A tool that may be called; tools that Anthropic runs itself are unknown here."""

    type: Literal["custom"] | None = None
    name: Name
    description: Text | None = None
    input_schema: Schema
    strict: bool | None = None


class AnyChoice(Body):
    """Whether tools may, must or must not be called."""

    type: Literal["auto", "any", "none"]
    disable_parallel_tool_use: bool | None = None


class NamedToolChoice(Body):
    """The tool that must be called."""

    type: Literal["tool"]
    name: Name
    disable_parallel_tool_use: bool | None = None


class UserMetadata(Body):
    """Whose request it is."""

    user_id: ShortText | None = None


class NoThinking(Body):
    """Thinking is not told apart from the answer."""

    type: Literal["disabled"]


class OutputFormat(Body):
    """JSON that follows a schema."""

    type: Literal["json_schema"]
    schema_: Schema = Field(alias="schema")


class OutputConfig(Body):
    """The form of the answer."""

    format: OutputFormat | None = None


class CountRequest(Body):
    """How many tokens a conversation has."""

    model: Text
    messages: Annotated[list[Turn], Field(min_length=1)]
    system: Text | list[TextBlock] | None = None
    tools: Annotated[list[MessageTool], Field(max_length=128)] | None = None
    tool_choice: Annotated[AnyChoice | NamedToolChoice, Field(discriminator="type")] | None = None
    thinking: NoThinking | None = None
    output_config: OutputConfig | None = None

    def as_template(self) -> list[dict[str, Any]]:
        """The conversation as chat templates expect it."""
        system = [{"role": "system", "content": joined(self.system)}] if self.system else []
        return system + [message for turn in self.messages for message in turn.as_template()]


class MessagesRequest(CountRequest):
    """Continue a conversation. Options of the API that are not here are refused."""

    max_tokens: NewTokens
    temperature: Temperature | None = None
    top_p: Probability | None = None
    top_k: TopK | None = None
    stop_sequences: Stops | None = None
    stream: bool | None = None
    metadata: UserMetadata | None = None
    service_tier: Literal["auto", "standard_only"] | None = None


def arguments_of(text: str) -> dict[str, Any]:
    """The arguments of a call that the model made."""
    found: dict[str, Any] = json.loads(text)
    return found
