"""What an HTTP API makes of an answer: one JSON document, or a stream of server-sent events."""

from __future__ import annotations

import json
import secrets
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from swarm.gateway.api_error import ApiError
from swarm.gateway.events import Ending, Event, Piece, TokenInfo, ToolCall, Usage


@dataclass(slots=True)
class Choice:
    """One continuation as a whole."""

    text: str = ""
    tokens: list[TokenInfo] = field(default_factory=list)
    calls: list[ToolCall] = field(default_factory=list)
    ending: Ending | None = None


async def gathered(events: AsyncIterator[tuple[int, Event]], count: int) -> list[Choice]:
    """All continuations, once they have ended."""
    choices = [Choice() for _ in range(count)]
    async for index, event in events:
        choice = choices[index]
        match event:
            case Piece():
                choice.text += event.text
                choice.tokens.extend(event.tokens)
            case ToolCall():
                choice.calls.append(event)
            case Ending():
                choice.ending = event
    return choices


class Dialect(Protocol):
    """One API's way to answer one request."""

    def whole(self, choices: Sequence[Choice], usage: Usage) -> dict[str, Any]:
        """The JSON document."""
        ...

    def opening(self, prompt_tokens: int) -> Iterable[bytes]:
        """Events before the first token."""
        ...

    def event(self, index: int, event: Event) -> Iterable[bytes]:
        """Events for something that came."""
        ...

    def closing(self, usage: Usage) -> Iterable[bytes]:
        """Events after the last token."""
        ...

    def failure(self, error: ApiError) -> Iterable[bytes]:
        """Events that end a stream which cannot go on."""
        ...


def sse(data: object, name: str | None = None) -> bytes:
    """One server-sent event."""
    text = data if isinstance(data, str) else json.dumps(data, ensure_ascii=False, separators=(",", ":"))
    return (f"event: {name}\n" if name else "").encode() + f"data: {text}\n\n".encode()


def new_id(prefix: str) -> str:
    """An id that nobody else has."""
    return f"{prefix}{secrets.token_hex(12)}"
