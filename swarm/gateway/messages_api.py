"""Anthropic's messages: what is asked, and how it is answered."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from swarm.gateway.api_error import ApiError
from swarm.gateway.ask import Ask, Sampling
from swarm.gateway.dialect import Choice, new_id, sse
from swarm.gateway.events import Ending, Event, Piece, ToolCall, Usage
from swarm.gateway.messages_schema import CountRequest, MessagesRequest, NamedToolChoice, arguments_of
from swarm.gateway.prompts import ChatPlan, Prompter, Tool, ToolChoice


def messages_plan(body: CountRequest, prompter: Prompter) -> ChatPlan:
    """The prompt of a conversation.

    Raises:
        ApiError: the model cannot do it.
    """
    tools = [Tool(tool.name, tool.description, tool.input_schema) for tool in body.tools or ()]
    form = body.output_config.format if body.output_config is not None else None
    return prompter.chat(body.as_template(), tools, _choice(body), form.schema_ if form is not None else None)


def messages_ask(body: MessagesRequest, prompter: Prompter) -> Ask:
    """What this request asks for.

    Raises:
        ApiError: the model cannot do it.
    """
    plan = messages_plan(body, prompter)
    return Ask(
        prompts=(plan.prompt,),
        max_tokens=prompter.room([plan.prompt], body.max_tokens, "max_tokens"),
        sampling=Sampling(temperature=body.temperature, top_p=body.top_p, top_k=body.top_k),
        stops=tuple(body.stop_sequences or ()),
        grammar=plan.grammar,
        tools=plan.tools,
        call_is_forced=plan.call_is_forced,
    )


def _choice(body: CountRequest) -> ToolChoice:
    choice = body.tool_choice
    if choice is None:
        return ToolChoice()
    if isinstance(choice, NamedToolChoice):
        return ToolChoice("required", choice.name)
    return ToolChoice({"any": "required", "auto": "auto", "none": "none"}[choice.type])  # type: ignore[arg-type]


class MessagesDialect:
    """Answers one request."""

    def __init__(self, body: MessagesRequest) -> None:
        self._model = body.model
        self._id = new_id("msg_")
        self._block = -1
        self._in_text = False
        self._has_calls = False
        self._ending: Ending | None = None

    def whole(self, choices: Sequence[Choice], usage: Usage) -> dict[str, Any]:
        (choice,) = choices
        content: list[dict[str, Any]] = [{"type": "text", "text": choice.text}] if choice.text else []
        content += [_block(call) | {"input": arguments_of(call.arguments)} for call in choice.calls]
        assert choice.ending is not None
        return self._message(content, _usage(usage)) | _stop(choice.ending, bool(choice.calls))

    def opening(self, prompt_tokens: int) -> Iterable[bytes]:
        started = self._message([], {"input_tokens": prompt_tokens, "output_tokens": 0})
        yield _event({"type": "message_start", "message": started})
        yield _event({"type": "ping"})

    def event(self, index: int, event: Event) -> Iterable[bytes]:
        match event:
            case Piece():
                if event.text:
                    yield from self._text(event.text)
            case ToolCall():
                yield from self._end_text()
                self._has_calls = True
                yield from self._whole_block(event)
            case Ending():
                yield from self._end_text()
                self._ending = event

    def closing(self, usage: Usage) -> Iterable[bytes]:
        assert self._ending is not None
        delta = _stop(self._ending, self._has_calls)
        yield _event({"type": "message_delta", "delta": delta, "usage": _usage(usage)})
        yield _event({"type": "message_stop"})

    def failure(self, error: ApiError) -> Iterable[bytes]:
        yield _event(error.anthropic())

    def _message(self, content: list[dict[str, Any]], usage: dict[str, int]) -> dict[str, Any]:
        return {
            "id": self._id,
            "type": "message",
            "role": "assistant",
            "model": self._model,
            "content": content,
            "stop_reason": None,
            "stop_sequence": None,
            "usage": usage,
        }

    def _text(self, text: str) -> Iterable[bytes]:
        if not self._in_text:
            self._in_text = True
            self._block += 1
            block = {"type": "text", "text": ""}
            yield _event({"type": "content_block_start", "index": self._block, "content_block": block})
        delta = {"type": "text_delta", "text": text}
        yield _event({"type": "content_block_delta", "index": self._block, "delta": delta})

    def _end_text(self) -> Iterable[bytes]:
        if self._in_text:
            self._in_text = False
            yield _event({"type": "content_block_stop", "index": self._block})

    def _whole_block(self, call: ToolCall) -> Iterable[bytes]:
        self._block += 1
        started = _block(call) | {"input": {}}
        yield _event({"type": "content_block_start", "index": self._block, "content_block": started})
        delta = {"type": "input_json_delta", "partial_json": call.arguments}
        yield _event({"type": "content_block_delta", "index": self._block, "delta": delta})
        yield _event({"type": "content_block_stop", "index": self._block})


def _event(data: dict[str, Any]) -> bytes:
    return sse(data, data["type"])


def _block(call: ToolCall) -> dict[str, Any]:
    return {"type": "tool_use", "id": call.id.replace("call_", "toolu_", 1), "name": call.name}


def _usage(usage: Usage) -> dict[str, int]:
    return {"input_tokens": usage.prompt_tokens, "output_tokens": usage.new_tokens}


def _stop(ending: Ending, has_calls: bool) -> dict[str, Any]:
    if ending.reason == "length":
        reason = "max_tokens"
    elif has_calls:
        reason = "tool_use"
    else:
        reason = "end_turn" if ending.stop_text is None else "stop_sequence"
    return {"stop_reason": reason, "stop_sequence": ending.stop_text}
