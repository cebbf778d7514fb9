"""A line at the bottom of the terminal that says how things are, while text scrolls above it.

The terminal is told to scroll all rows but the last (DECSTBM), so that text may be written as it comes, wrapped by the
terminal itself.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Self, TextIO

from rich.cells import set_cell_size

PERIOD_S = 0.25
FEWEST_ROWS = 4

_SAVE, _RESTORE, _CLEAR_ROW = "\x1b7", "\x1b8", "\x1b[2K"
_DIM, _PLAIN = "\x1b[2m", "\x1b[0m"


class LiveLine:
    """Shows what `describe` says, again and again; text for above it goes through `write`.

    Args:
        stream: a terminal.
    """

    def __init__(self, stream: TextIO, describe: Callable[[], str]) -> None:
        self._stream = stream
        self._describe = describe
        self._size = (0, 0)  # columns, rows
        self._lock = threading.RLock()
        self._ended = threading.Event()
        self._ticker = threading.Thread(target=self._tick, name="live-line", daemon=True)

    def __enter__(self) -> Self:
        self._draw()
        self._ticker.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._ticker.join()
        if self._has_room:
            row = self._size[1]
            self._put(f"{_SAVE}\x1b[r\x1b[{row};1H{_CLEAR_ROW}{_RESTORE}")

    def write(self, text: str) -> None:
        """Text above the line."""
        with self._lock:
            self._put(text)
            self._draw()

    def _tick(self) -> None:
        while not self._ended.wait(PERIOD_S):
            self._draw()

    @property
    def _has_room(self) -> bool:
        return self._size[1] >= FEWEST_ROWS

    def _draw(self) -> None:
        with self._lock:
            self._fit()
            if self._has_room:
                columns, rows = self._size
                line = set_cell_size(printable(self._describe()).replace("\n", " "), columns - 1)
                self._put(f"{_SAVE}\x1b[{rows};1H{_CLEAR_ROW}{_DIM}{line}{_PLAIN}{_RESTORE}")

    def _fit(self) -> None:
        """Set the last row of the terminal aside, again when its size has changed."""
        size = os.get_terminal_size(self._stream.fileno())
        if (size.columns, size.lines) == self._size:
            return
        self._size = (size.columns, size.lines)
        if self._has_room:
            # the index makes room if the cursor is in the last row; setting the region moves it
            self._put(f"\x1bD\x1b[A{_SAVE}\x1b[1;{size.lines - 1}r{_RESTORE}")

    def _put(self, text: str) -> None:
        self._stream.write(text)
        self._stream.flush()


def printable(text: str) -> str:
    """Without control characters, which could steer the terminal; line breaks and tabs stay."""
    return "".join(c for c in text if c in "\n\t" or not (ord(c) < 32 or 127 <= ord(c) < 160))
