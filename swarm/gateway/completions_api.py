"""OpenAI's completions: plain prompts, continued."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from swarm.gateway.api_error import ApiError
from swarm.gateway.ask import Ask, Sampling
from swarm.gateway.body import (
    MOST_PROMPTS,
    Bias,
    Body,
    Count,
    NewTokens,
    Penalty,
    Probability,
    Seed,
    ShortText,
    Stop,
    Stops,
    Temperature,
    Text,
    TopK,
    as_prompts,
    stops_of,
)
from swarm.gateway.chat_api import DONE, usage_json
from swarm.gateway.chat_schema import StreamOptions
from swarm.gateway.dialect import Choice, new_id, sse
from swarm.gateway.events import Ending, Event, Piece, TokenInfo, Usage
from swarm.gateway.prompts import Prompter

_DEFAULT_TOKENS = 16  # as the API has it

TokenIds = Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)]
Prompts = Annotated[list[Text], Field(min_length=1, max_length=MOST_PROMPTS)]
TokenPrompts = Annotated[list[TokenIds], Field(min_length=1, max_length=MOST_PROMPTS)]


class CompletionRequest(Body):
    """Continue prompts, given as text or as token ids. Options of the API that are not here are refused."""

    model: Text
    prompt: Text | Prompts | TokenIds | TokenPrompts
    max_tokens: NewTokens | None = None
    temperature: Temperature | None = None
    top_p: Probability | None = None
    top_k: TopK | None = None
    frequency_penalty: Penalty | None = None
    presence_penalty: Penalty | None = None
    logit_bias: Bias | None = None
    seed: Seed | None = None
    stop: Stop | Stops | None = None
    n: Count | None = None
    best_of: Count | None = None
    logprobs: Annotated[int, Field(ge=0, le=5)] | None = None
    echo: Literal[False] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    user: ShortText | None = None

    @model_validator(mode="after")
    def _options_agree(self) -> Self:
        if self.best_of not in (None, self.n or 1):
            raise ValueError("best_of must equal n: answers are not ranked here")
        if self.stream_options is not None and not self.stream:
            raise ValueError("stream_options needs stream: true")
        return self


def completion_ask(body: CompletionRequest, prompter: Prompter) -> Ask:
    """What this request asks for.

    Raises:
        ApiError: the model cannot do it.
    """
    prompts = prompter.plain(as_prompts(body.prompt))
    return Ask(
        prompts=prompts,
        max_tokens=prompter.room(prompts, body.max_tokens or _DEFAULT_TOKENS, "max_tokens"),
        sampling=Sampling(
            temperature=body.temperature,
            top_p=body.top_p,
            top_k=body.top_k,
            seed=body.seed,
            frequency_penalty=body.frequency_penalty or 0.0,
            presence_penalty=body.presence_penalty or 0.0,
            logit_bias=prompter.bias(body.logit_bias or {}),
            top_logprobs=body.logprobs,
        ),
        stops=stops_of(body.stop),
        count=body.n or 1,
    )


class CompletionDialect:
    """Answers one request."""

    def __init__(self, body: CompletionRequest) -> None:
        self._body = body
        self._head = {
            "id": new_id("cmpl-"),
            "object": "text_completion",
            "created": int(time.time()),
            "model": body.model,
        }
        self._lengths = [0] * (len(as_prompts(body.prompt)) * (body.n or 1))
        self._reports_usage = body.stream_options is not None and body.stream_options.include_usage

    def whole(self, choices: Sequence[Choice], usage: Usage) -> dict[str, Any]:
        made = []
        for index, choice in enumerate(choices):
            assert choice.ending is not None
            made.append(self._choice(index, choice.text, choice.tokens, choice.ending.reason))
        return self._head | {"choices": made, "usage": usage_json(usage)}

    def opening(self, prompt_tokens: int) -> Iterable[bytes]:
        return ()

    def event(self, index: int, event: Event) -> Iterable[bytes]:
        if isinstance(event, Piece) and (event.text or event.tokens):
            yield self._chunk(self._choice(index, event.text, event.tokens, None))
        elif isinstance(event, Ending):
            yield self._chunk(self._choice(index, "", (), event.reason))

    def closing(self, usage: Usage) -> Iterable[bytes]:
        if self._reports_usage:
            yield sse(self._head | {"choices": [], "usage": usage_json(usage)})
        yield DONE

    def failure(self, error: ApiError) -> Iterable[bytes]:
        yield sse(error.openai())
        yield DONE

    def _chunk(self, choice: dict[str, Any]) -> bytes:
        return sse(self._head | {"choices": [choice]} | ({"usage": None} if self._reports_usage else {}))

    def _choice(
        self, index: int, text: str, tokens: Sequence[TokenInfo], finish: str | None
    ) -> dict[str, Any]:
        found = {"index": index, "text": text, "logprobs": None, "finish_reason": finish}
        if self._body.logprobs is not None:
            found["logprobs"] = self._logprobs(index, tokens)
        return found

    def _logprobs(self, index: int, tokens: Sequence[TokenInfo]) -> dict[str, Any]:
        offsets = []
        for token in tokens:
            offsets.append(self._lengths[index])
            self._lengths[index] += len(token.text)
        return {
            "tokens": [token.text for token in tokens],
            "token_logprobs": [token.logprob for token in tokens],
            "top_logprobs": [dict(token.top) for token in tokens],
            "text_offset": offsets,
        }
