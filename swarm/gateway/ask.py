"""What an HTTP request asks the model for, whatever API it came through."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from swarm.gateway.tool_format import ToolFormat


@dataclass(frozen=True, slots=True)
class Sampling:
    """How tokens are chosen; None leaves a value to the model's own generation settings.

    Attributes:
        temperature: 0 always takes the likeliest token.
        seed: same seed, same text.
        frequency_penalty: taken from a token's logit for each time it has come.
        presence_penalty: taken once from the logit of each token that has come.
        logit_bias: added to the logits of these tokens.
        top_logprobs: report the logarithm of each token's probability, and of so many likelier ones.
    """

    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    seed: int | None = None
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    top_logprobs: int | None = None


@dataclass(frozen=True, slots=True)
class Ask:
    """Prompts as token ids, each to be continued `count` times.

    Attributes:
        max_tokens: most new tokens of one continuation.
        stops: a continuation ends before the first of these texts.
        grammar: what the text must follow, as `grammar.py` compiled it.
        tools: how the model writes tool calls, where these are to be read.
        call_is_forced: the whole answer is one tool call.
    """

    prompts: tuple[tuple[int, ...], ...]
    max_tokens: int
    sampling: Sampling = Sampling()
    stops: tuple[str, ...] = ()
    count: int = 1
    grammar: str | None = None
    tools: ToolFormat | None = None
    call_is_forced: bool = False

    @property
    def prompt_tokens(self) -> int:
        """Of all prompts."""
        return sum(map(len, self.prompts))

    @property
    def continuations(self) -> int:
        """How many sessions it takes."""
        return len(self.prompts) * self.count
