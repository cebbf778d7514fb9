"""What comes out of the model while it answers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class TokenInfo:
    """A token as text, the logarithm of its probability, and those of the likeliest tokens in its place."""

    text: str
    logprob: float
    top: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True, slots=True)
class Piece:
    """Text that has become certain, and its tokens (if their probabilities were asked for).

    `is_token` says that a token came with it: not so for what is left at the end.
    """

    text: str
    tokens: tuple[TokenInfo, ...] = ()
    is_token: bool = False


@dataclass(frozen=True, slots=True)
class ToolCall:
    """The model wants this tool to be called; `arguments` is the text of a JSON object."""

    id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class Ending:
    """A continuation ended after so many new tokens, an end token included."""

    reason: Literal["stop", "length"]
    stop_text: str | None
    tokens: int


Event = Piece | ToolCall | Ending


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of a whole answer."""

    prompt_tokens: int
    new_tokens: int

    @property
    def total_tokens(self) -> int:
        return self.prompt_tokens + self.new_tokens
