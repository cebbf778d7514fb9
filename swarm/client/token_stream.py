"""Text from tokens as they come: never half a character, never part of a stop text.

`TextAssembler` is pure; `TokenStream` is the streamer that transformers' `generate()` calls.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

_INCOMPLETE = "\ufffd"  # what a tokenizer decodes the first bytes of a longer character to
_CONTEXT = 8  # tokens decoded again with each new one, so that spaces between words come out right


class TextAssembler:
    """Turns token ids into pieces of text, in order, ending before the first stop text.

    Attributes:
        text: all that has been handed out.
        received: how many characters have come, those held back and those of a stop text included.
        stopped_by: the stop text that ended it.
    """

    def __init__(self, decode: Callable[[Sequence[int]], str], stops: Sequence[str] = ()) -> None:
        self._decode = decode
        self._stops = tuple(stop for stop in stops if stop)
        self._ids: list[int] = []
        self._shown_ids = 0  # tokens whose text has been taken
        self._held = ""  # text that may be the beginning of a stop text
        self.text = ""
        self.received = 0
        self.stopped_by: str | None = None

    @property
    def stopped(self) -> bool:
        """Whether a stop text has come; nothing is handed out any more."""
        return self.stopped_by is not None

    def add(self, ids: Sequence[int]) -> str:
        """The text that these tokens complete."""
        self._ids.extend(ids)
        return self._release(self._new_text(), final=False)

    def finish(self) -> str:
        """What was held back and cannot become anything else."""
        return self._release(self._new_text(final=True), final=True)

    def _new_text(self, *, final: bool = False) -> str:
        context = max(0, self._shown_ids - _CONTEXT)
        known = self._decode(self._ids[context : self._shown_ids])
        full = self._decode(self._ids[context:])
        if full.endswith(_INCOMPLETE) and not final:
            return ""
        self._shown_ids = len(self._ids)
        self.received += len(full) - len(known)
        return full[len(known) :]

    def _release(self, text: str, *, final: bool) -> str:
        if self.stopped:
            return ""
        text = self._held + text
        found = [(text.index(stop), stop) for stop in self._stops if stop in text]
        if found:
            end, self.stopped_by = min(found)
            text, self._held = text[:end], ""
        else:
            keep = 0 if final else _stop_prefix(text, self._stops)
            text, self._held = text[: len(text) - keep], text[len(text) - keep :]
        self.text += text
        return text


def _stop_prefix(text: str, stops: Sequence[str]) -> int:
    """Length of the longest end of `text` that begins one of `stops`."""
    lengths = (
        n for stop in stops for n in range(min(len(stop) - 1, len(text)), 0, -1) if text.endswith(stop[:n])
    )
    return max(lengths, default=0)


class TokenStream:
    """A transformers streamer for one sequence: hands out text, and keeps the time of every token.

    `show` is called once with every token, with the text that it completes (maybe none), and once at the end.

    Attributes:
        times: `time.perf_counter()` at which each new token came.
        ids: the new tokens.
    """

    def __init__(self, assembler: TextAssembler, show: Callable[[str], None]) -> None:
        self.assembler = assembler
        self.times: list[float] = []
        self.ids: list[int] = []
        self._show = show
        self._prompt_passed = False

    def put(self, value: Any) -> None:
        """Called by `generate()` first with the prompt, then with each new token (a tensor)."""
        if not self._prompt_passed:
            self._prompt_passed = True
            return
        self.times.append(time.perf_counter())
        new = [int(token) for token in value.flatten().tolist()]
        self.ids.extend(new)
        self._show(self.assembler.add(new))

    def end(self) -> None:
        self._show(self.assembler.finish())
