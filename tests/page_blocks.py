"""The code blocks of Markdown pages, fenced or indented, in their order."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

SHELL = "shell"
_FENCE = re.compile(r"^\s*```(\w*)")


@dataclass(frozen=True, slots=True)
class Block:
    """One block; an indented one is `shell`, and `line` is where it begins, from 1."""

    language: str
    text: str
    line: int


def blocks_of(page: Path) -> list[Block]:
    """All of them. An indented block follows an empty line."""
    lines = page.read_text(encoding="utf-8").splitlines()
    return list(_blocks(lines))


def _blocks(lines: list[str]) -> Iterator[Block]:
    at, was_empty = 0, True
    while at < len(lines):
        fence = _FENCE.match(lines[at])
        if fence:
            end = next(i for i in range(at + 1, len(lines)) if lines[i].strip() == "```")
            yield Block(fence[1] or SHELL, "\n".join(lines[at + 1 : end]) + "\n", at + 1)
        elif was_empty and lines[at].startswith("    "):
            end = next((i for i in range(at, len(lines)) if not lines[i].startswith("    ")), len(lines))
            yield Block(SHELL, "\n".join(line[4:] for line in lines[at:end]) + "\n", at + 1)
            end -= 1
        else:
            end = at
        was_empty = not lines[end].strip()
        at = end + 1


def commands_in(text: str) -> list[str]:
    """The lines of a shell block that do something; lines that end in a backslash are joined."""
    joined = text.replace("\\\n", " ")
    return [line.strip() for line in joined.splitlines() if line.strip() and not line.strip().startswith("#")]
