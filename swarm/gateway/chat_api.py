"""OpenAI's chat completions: what is asked, and how it is answered."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from typing import Any

from swarm.gateway.api_error import ApiError
from swarm.gateway.ask import Ask, Sampling
from swarm.gateway.body import stops_of
from swarm.gateway.chat_schema import ChatRequest, NamedChoice, ObjectFormat, SchemaFormat
from swarm.gateway.dialect import Choice, new_id, sse
from swarm.gateway.events import Ending, Event, Piece, TokenInfo, ToolCall, Usage
from swarm.gateway.grammar import ANY_OBJECT
from swarm.gateway.prompts import Prompter, Tool, ToolChoice

DONE = sse("[DONE]")


def chat_ask(body: ChatRequest, prompter: Prompter) -> Ask:
    """What this request asks for.

    Raises:
        ApiError: the model cannot do it.
    """
    tools = [Tool(t.function.name, t.function.description, t.function.parameters) for t in body.tools or ()]
    plan = prompter.chat(
        [message.as_template() for message in body.messages], tools, _choice(body), _schema(body)
    )
    wanted = body.max_completion_tokens or body.max_tokens
    name = "max_completion_tokens" if body.max_completion_tokens else "max_tokens"
    return Ask(
        prompts=(plan.prompt,),
        max_tokens=prompter.room([plan.prompt], wanted, name),
        sampling=Sampling(
            temperature=body.temperature,
            top_p=body.top_p,
            top_k=body.top_k,
            seed=body.seed,
            frequency_penalty=body.frequency_penalty or 0.0,
            presence_penalty=body.presence_penalty or 0.0,
            logit_bias=prompter.bias(body.logit_bias or {}),
            top_logprobs=(body.top_logprobs or 0) if body.logprobs else None,
        ),
        stops=stops_of(body.stop),
        count=body.n or 1,
        grammar=plan.grammar,
        tools=plan.tools,
        call_is_forced=plan.call_is_forced,
    )


def _choice(body: ChatRequest) -> ToolChoice:
    if isinstance(body.tool_choice, NamedChoice):
        return ToolChoice("required", body.tool_choice.function.name)
    return ToolChoice(body.tool_choice or "auto")


def _schema(body: ChatRequest) -> Any:
    if isinstance(body.response_format, ObjectFormat):
        return ANY_OBJECT
    return (
        body.response_format.json_schema.schema_ if isinstance(body.response_format, SchemaFormat) else None
    )


class ChatDialect:
    """Answers one request."""

    def __init__(self, body: ChatRequest) -> None:
        self._body = body
        self._head = {"id": new_id("chatcmpl-"), "created": int(time.time()), "model": body.model}
        self._calls = [0] * (body.n or 1)
        self._reports_usage = body.stream_options is not None and body.stream_options.include_usage

    def whole(self, choices: Sequence[Choice], usage: Usage) -> dict[str, Any]:
        made = [self._whole_choice(index, choice) for index, choice in enumerate(choices)]
        return self._head | {"object": "chat.completion", "choices": made, "usage": usage_json(usage)}

    def _whole_choice(self, index: int, choice: Choice) -> dict[str, Any]:
        message: dict[str, Any] = {"role": "assistant", "content": choice.text, "refusal": None}
        if choice.calls:
            message["tool_calls"] = [_call_json(call) for call in choice.calls]
            message["content"] = choice.text or None
        assert choice.ending is not None
        return {
            "index": index,
            "message": message,
            "logprobs": self._logprobs(choice.tokens),
            "finish_reason": _finish(choice.ending, bool(choice.calls)),
        }

    def opening(self, prompt_tokens: int) -> Iterable[bytes]:
        for index in range(len(self._calls)):
            yield self._chunk(index, {"role": "assistant", "content": ""})

    def event(self, index: int, event: Event) -> Iterable[bytes]:
        match event:
            case Piece():
                if event.text or event.tokens:
                    yield self._chunk(index, {"content": event.text}, tokens=event.tokens)
            case ToolCall():
                call = {"index": self._calls[index]} | _call_json(event)
                self._calls[index] += 1
                yield self._chunk(index, {"tool_calls": [call]})
            case Ending():
                yield self._chunk(index, {}, finish=_finish(event, bool(self._calls[index])))

    def closing(self, usage: Usage) -> Iterable[bytes]:
        if self._reports_usage:
            yield sse(
                self._head | {"object": "chat.completion.chunk", "choices": [], "usage": usage_json(usage)}
            )
        yield DONE

    def failure(self, error: ApiError) -> Iterable[bytes]:
        yield sse(error.openai())
        yield DONE

    def _chunk(
        self,
        index: int,
        delta: dict[str, Any],
        *,
        tokens: Sequence[TokenInfo] = (),
        finish: str | None = None,
    ) -> bytes:
        choice = {
            "index": index,
            "delta": delta,
            "logprobs": self._logprobs(tokens) if tokens else None,
            "finish_reason": finish,
        }
        chunk = self._head | {"object": "chat.completion.chunk", "choices": [choice]}
        return sse(chunk | ({"usage": None} if self._reports_usage else {}))

    def _logprobs(self, tokens: Sequence[TokenInfo]) -> dict[str, Any] | None:
        if not self._body.logprobs:
            return None
        return {"content": [token_json(token) for token in tokens], "refusal": None}


def token_json(token: TokenInfo) -> dict[str, Any]:
    """A token with its probability, as chat completions and responses report it."""
    top = [_token(text, logprob) for text, logprob in token.top]
    return _token(token.text, token.logprob) | {"top_logprobs": top}


def _token(text: str, logprob: float) -> dict[str, Any]:
    is_part = "\ufffd" in text  # of a character: its bytes are not known
    return {
        "token": text,
        "logprob": max(logprob, -9999.0),
        "bytes": None if is_part else list(text.encode()),
    }


def usage_json(usage: Usage) -> dict[str, int]:
    """Counts as chat completions and completions have them."""
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.new_tokens,
        "total_tokens": usage.total_tokens,
    }


def _call_json(call: ToolCall) -> dict[str, Any]:
    return {
        "id": call.id,
        "type": "function",
        "function": {"name": call.name, "arguments": call.arguments},
    }


def _finish(ending: Ending, has_calls: bool) -> str:
    return "tool_calls" if has_calls and ending.reason == "stop" else ending.reason
