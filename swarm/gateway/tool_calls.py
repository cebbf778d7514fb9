"""Tells tool calls from text in what a model writes."""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator
from typing import Any

from swarm.gateway.events import Piece, TokenInfo, ToolCall
from swarm.gateway.tool_format import ToolFormat


class CallReader:
    """For one continuation: pieces of text in, pieces and calls out.

    Text that may become a call is held back; what turns out to be none comes out as text, unchanged.

    Args:
        form: how calls are written; None reads none.
        forced: the whole text is the JSON of a call.
    """

    def __init__(self, form: ToolFormat | None, *, forced: bool) -> None:
        self._form = form
        self._forced = forced
        self._held = ""
        self._tokens: tuple[TokenInfo, ...] = ()
        self._inside = forced
        self._after_call = False  # space between calls is no text
        self._passes = False  # no call can come any more

    def add(self, piece: Piece) -> Iterator[Piece | ToolCall]:
        """What this piece completes."""
        if self._form is None:
            yield piece
            return
        self._held += piece.text
        self._tokens += piece.tokens
        yield from self._read(self._form, final=False)

    def finish(self) -> Iterator[Piece | ToolCall]:
        """What was held back."""
        if self._form is not None:
            yield from self._read(self._form, final=True)

    def _read(self, form: ToolFormat, *, final: bool) -> Iterator[Piece | ToolCall]:
        if self._passes:
            yield from self._text(self._held)
            return
        while True:
            if not self._inside:
                yield from self._enter(form, final=final)
            if not self._inside:
                return
            body, rest = self._body(form)
            if rest is None and not final:
                return  # the call goes on
            calls = _calls(form, body)
            self._inside = False
            if not calls:
                yield from self._text(self._held if self._forced else form.opening + self._held)
                return
            yield from calls
            self._taken()  # the tokens of a call are not told
            self._held, self._after_call = rest or "", True

    def _enter(self, form: ToolFormat, *, final: bool) -> Iterator[Piece]:
        """Give out text up to where a call begins."""
        if self._after_call:
            self._held = self._held.lstrip()
            self._after_call = not self._held
        if not form.opening:
            begins = self._held.lstrip()
            self._inside = begins.startswith("{")
            self._passes = bool(begins) and not self._inside
            if not self._inside and (self._passes or final):
                yield from self._text(self._held)
            return
        start = self._held.find(form.opening)
        if start < 0:
            yield from self._text(self._held, 0 if final else _beginning(self._held, form.opening))
            return
        before, self._held = self._held[:start], self._held[start + len(form.opening) :]
        self._inside = True
        if before.strip():
            yield Piece(before, self._taken())

    def _body(self, form: ToolFormat) -> tuple[str, str | None]:
        """The JSON of a call, and what follows it; None if its end has not come."""
        end = self._held.find(form.closing) if form.closing and not self._forced else -1
        if end < 0:
            return self._held, None
        return self._held[:end], self._held[end + len(form.closing) :]

    def _text(self, text: str, keep: int = 0) -> Iterator[Piece]:
        shown, self._held = text[: len(text) - keep], text[len(text) - keep :]
        tokens = self._taken() if shown or not keep else ()
        if shown or tokens:
            yield Piece(shown, tokens)

    def _taken(self) -> tuple[TokenInfo, ...]:
        taken, self._tokens = self._tokens, ()
        return taken


def _beginning(text: str, mark: str) -> int:
    """Length of the longest end of `text` that begins `mark`."""
    lengths = range(min(len(mark) - 1, len(text)), 0, -1)
    return next((n for n in lengths if text.endswith(mark[:n])), 0)


def _calls(form: ToolFormat, body: str) -> list[ToolCall]:
    """The calls that this JSON describes; none if it does not."""
    try:
        found: Any = json.loads(body)
    except (ValueError, RecursionError):
        return []
    made = [_call(form, item) for item in (found if isinstance(found, list) else [found])]
    return [call for call in made if call is not None] if all(made) else []


def _call(form: ToolFormat, found: Any) -> ToolCall | None:
    if not isinstance(found, dict) or not isinstance(found.get("name"), str):
        return None
    arguments = found.get(form.arguments_key, {})
    if not isinstance(arguments, dict):
        return None
    return ToolCall(f"call_{secrets.token_hex(12)}", found["name"], json.dumps(arguments, ensure_ascii=False))
