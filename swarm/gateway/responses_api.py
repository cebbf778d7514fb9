"""OpenAI's responses: what is asked, and how it is answered."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from typing import Any

from swarm.gateway.api_error import ApiError
from swarm.gateway.ask import Ask, Sampling
from swarm.gateway.chat_api import token_json
from swarm.gateway.chat_schema import ObjectFormat
from swarm.gateway.dialect import Choice, new_id, sse
from swarm.gateway.events import Ending, Event, Piece, TokenInfo, ToolCall, Usage
from swarm.gateway.grammar import ANY_OBJECT
from swarm.gateway.prompts import Prompter, Tool, ToolChoice
from swarm.gateway.responses_schema import FlatSchemaFormat, FunctionChoice, ResponsesRequest


def responses_ask(body: ResponsesRequest, prompter: Prompter) -> Ask:
    """What this request asks for.

    Raises:
        ApiError: the model cannot do it.
    """
    tools = [Tool(t.name, t.description, t.parameters or {"type": "object"}) for t in body.tools or ()]
    plan = prompter.chat(body.as_template(), tools, _choice(body), _schema(body))
    return Ask(
        prompts=(plan.prompt,),
        max_tokens=prompter.room([plan.prompt], body.max_output_tokens, "max_output_tokens"),
        sampling=Sampling(
            temperature=body.temperature,
            top_p=body.top_p,
            top_logprobs=(body.top_logprobs or 0) if body.wants_logprobs else None,
        ),
        grammar=plan.grammar,
        tools=plan.tools,
        call_is_forced=plan.call_is_forced,
    )


def _choice(body: ResponsesRequest) -> ToolChoice:
    if isinstance(body.tool_choice, FunctionChoice):
        return ToolChoice("required", body.tool_choice.name)
    return ToolChoice(body.tool_choice or "auto")


def _schema(body: ResponsesRequest) -> Any:
    form = body.text.format if body.text is not None else None
    if isinstance(form, ObjectFormat):
        return ANY_OBJECT
    return form.schema_ if isinstance(form, FlatSchemaFormat) else None


class ResponsesDialect:
    """Answers one request. `items` are what it has put out so far, the last one perhaps unfinished."""

    def __init__(self, body: ResponsesRequest) -> None:
        self._body = body
        self._id = new_id("resp_")
        self._created = time.time()
        self._number = 0
        self._items: list[dict[str, Any]] = []
        self._text: list[str] = []
        self._tokens: list[TokenInfo] = []
        self._in_text = False
        self._ending: Ending | None = None

    def whole(self, choices: Sequence[Choice], usage: Usage) -> dict[str, Any]:
        (choice,) = choices
        assert choice.ending is not None
        status = _status(choice.ending)
        if choice.text or not choice.calls:
            self._items.append(self._message(choice.text, choice.tokens, status))
        self._items += [_call_item(call, call.arguments, "completed") for call in choice.calls]
        return self._response(status, usage)

    def opening(self, prompt_tokens: int) -> Iterable[bytes]:
        yield self._event("response.created", response=self._response("in_progress"))
        yield self._event("response.in_progress", response=self._response("in_progress"))

    def event(self, index: int, event: Event) -> Iterable[bytes]:
        match event:
            case Piece():
                if event.text or event.tokens:
                    yield from self._add_text(event)
            case ToolCall():
                yield from self._end_text("completed")
                yield from self._add_call(event)
            case Ending():
                yield from self._end_text(_status(event))
                self._ending = event

    def closing(self, usage: Usage) -> Iterable[bytes]:
        assert self._ending is not None
        status = _status(self._ending)
        yield self._event(f"response.{status}", response=self._response(status, usage))

    def failure(self, error: ApiError) -> Iterable[bytes]:
        failed = self._response("failed") | {"error": {"code": "server_error", "message": str(error)}}
        yield self._event("response.failed", response=failed)

    def _add_text(self, piece: Piece) -> Iterable[bytes]:
        if not self._in_text:
            self._in_text = True
            item = self._message("", (), "in_progress")
            self._items.append(item)
            yield self._event("response.output_item.added", item=item | {"content": []}, **self._place())
            part = self._part("", ())
            yield self._event("response.content_part.added", part=part, **self._place(item))
        self._text.append(piece.text)
        self._tokens.extend(piece.tokens)
        logprobs = [token_json(token) for token in piece.tokens]
        place = self._place(self._items[-1])
        yield self._event("response.output_text.delta", delta=piece.text, logprobs=logprobs, **place)

    def _end_text(self, status: str) -> Iterable[bytes]:
        if not self._in_text:
            return
        text, tokens = "".join(self._text), tuple(self._tokens)
        self._in_text, self._text, self._tokens = False, [], []
        item = self._items[-1]
        place = self._place(item)
        part = self._part(text, tokens)
        item |= {"status": status, "content": [part]}
        logprobs = [token_json(token) for token in tokens]
        yield self._event("response.output_text.done", text=text, logprobs=logprobs, **place)
        yield self._event("response.content_part.done", part=part, **place)
        yield self._event("response.output_item.done", item=item, **self._place())

    def _add_call(self, call: ToolCall) -> Iterable[bytes]:
        item = _call_item(call, "", "in_progress")
        self._items.append(item)
        yield self._event("response.output_item.added", item=dict(item), **self._place())
        place = self._place() | {"item_id": item["id"]}
        yield self._event("response.function_call_arguments.delta", delta=call.arguments, **place)
        yield self._event(
            "response.function_call_arguments.done", arguments=call.arguments, name=call.name, **place
        )
        item |= {"arguments": call.arguments, "status": "completed"}
        yield self._event("response.output_item.done", item=item, **self._place())

    def _place(self, item: dict[str, Any] | None = None) -> dict[str, Any]:
        """Where an event belongs: to the last item, and to its only part if `item` is given."""
        place = {"output_index": len(self._items) - 1}
        return place if item is None else place | {"item_id": item["id"], "content_index": 0}

    def _event(self, kind: str, **data: Any) -> bytes:
        number, self._number = self._number, self._number + 1
        return sse({"type": kind, "sequence_number": number} | data, kind)

    def _message(self, text: str, tokens: Sequence[TokenInfo], status: str) -> dict[str, Any]:
        content = [self._part(text, tokens)]
        return {
            "id": new_id("msg_"),
            "type": "message",
            "role": "assistant",
            "status": status,
            "content": content,
        }

    def _part(self, text: str, tokens: Sequence[TokenInfo]) -> dict[str, Any]:
        logprobs = [token_json(token) for token in tokens]
        return {"type": "output_text", "text": text, "annotations": [], "logprobs": logprobs}

    def _response(self, status: str, usage: Usage | None = None) -> dict[str, Any]:
        body = self._body
        text = body.text.model_dump(by_alias=True, exclude_none=True) if body.text is not None else {}
        incomplete = {"reason": "max_output_tokens"} if status == "incomplete" else None
        choice = body.tool_choice
        return {
            "id": self._id,
            "object": "response",
            "created_at": self._created,
            "status": status,
            "error": None,
            "incomplete_details": incomplete,
            "instructions": body.instructions,
            "max_output_tokens": body.max_output_tokens,
            "metadata": body.metadata or {},
            "model": body.model,
            "output": list(self._items),
            "parallel_tool_calls": body.parallel_tool_calls is not False,
            "previous_response_id": None,
            "store": False,
            "temperature": body.temperature,
            "text": {"format": {"type": "text"}} | text,
            "tool_choice": choice.model_dump() if isinstance(choice, FunctionChoice) else choice or "auto",
            "tools": [tool.model_dump() for tool in body.tools or ()],
            "top_p": body.top_p,
            "truncation": "disabled",
            "usage": _usage(usage) if usage is not None else None,
            "user": body.user,
        }


def _status(ending: Ending) -> str:
    return "incomplete" if ending.reason == "length" else "completed"


def _call_item(call: ToolCall, arguments: str, status: str) -> dict[str, Any]:
    return {
        "id": new_id("fc_"),
        "type": "function_call",
        "call_id": call.id,
        "name": call.name,
        "arguments": arguments,
        "status": status,
    }


def _usage(usage: Usage) -> dict[str, Any]:
    return {
        "input_tokens": usage.prompt_tokens,
        "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
        "output_tokens": usage.new_tokens,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": usage.total_tokens,
    }
