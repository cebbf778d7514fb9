"""Text that strangers wrote, before it may reach a terminal or a log."""

from __future__ import annotations


def one_line(text: str, max_chars: int) -> str:
    """`text` as one line of printable characters: no line breaks, no terminal escapes."""
    return "".join(char if char.isprintable() else " " for char in text[:max_chars])
