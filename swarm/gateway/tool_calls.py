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
        while True:
            if self._inside:
                end = self._held.find(form.closing) if form.closing and not self._forced else -1
                if end < 0 and not final:
                    return
                body = self._held if end < 0 else self._held[:end]
                rest = "" if end < 0 else self._held[end + len(form.closing) :]
                calls = _calls(form, body)
                if not calls:
                    rest = self._held if self._forced else form.opening + self._held
                    self._inside = False
                    yield from self._text(rest)
                    return
                yield from calls
                self._held, self._inside = rest.lstrip("\n"), False
            start = self._held.find(form.opening)
            if start < 0:
                keep = 0 if final else _beginning(self._held, form.opening)
                yield from self._text(self._held, keep)
                return
            before, self._held = self._held[:start], self._held[start + len(form.opening) :]
            self._inside = True
            if before.strip():
                yield Piece(before, self._taken())

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
