"""How a model writes tool calls: read off its chat template."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class ToolFormat:
    """A call is `opening`, a JSON object with name and arguments, and `closing`.

    Without `opening`, an answer that begins with a brace is a call as a whole.

    Attributes:
        arguments_key: of the object; Llama calls the arguments `parameters`.
        is_list: several calls stand in one JSON array.
        lead: what models are used to between `opening` and the JSON.
    """

    opening: str
    closing: str
    arguments_key: str = "arguments"
    is_list: bool = False
    lead: str = ""

    def call_schema(self, tools: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
        """The JSON schema of a call of one of these tools (name -> schema of its arguments)."""
        calls = [
            {
                "type": "object",
                "properties": {"name": {"const": name}, self.arguments_key: dict(schema)},
                "required": ["name", self.arguments_key],
                "additionalProperties": False,
            }
            for name, schema in tools.items()
        ]
        call = calls[0] if len(calls) == 1 else {"anyOf": calls}
        return {"type": "array", "items": call, "minItems": 1, "maxItems": 1} if self.is_list else call


TAGGED = ToolFormat("<tool_call>", "</tool_call>", lead="\n")
MISTRAL = ToolFormat("[TOOL_CALLS]", "", is_list=True)
LLAMA = ToolFormat("", "", arguments_key="parameters")


def find_format(template: str) -> ToolFormat | None:
    """The format that a chat template teaches the model; None if it knows no tools, or writes calls another way."""
    if "tools" not in template or "<function=" in template:
        return None
    if "<tool_call>" in template:
        return TAGGED
    if "[TOOL_CALLS]" in template:
        return MISTRAL
    if '"parameters":' in template:
        return LLAMA
    return None
