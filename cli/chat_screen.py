"""Where a chat takes place: what it needs of a terminal, and the same without one, as plain lines."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

import typer

from swarm.cli.answer_progress import AnswerProgress
from swarm.core.errors import ConfigError, SwarmError


class ChatScreen(Protocol):
    """Reads messages and shows answers."""

    def read(self) -> str | None:
        """The next message; None at the end."""
        ...

    def answering(self, progress: AnswerProgress) -> AbstractContextManager[Callable[[str], None]]:
        """Show text as it is written to what this yields, and how the answer is coming along."""
        ...

    def say(self, text: str) -> None:
        """What was asked for."""
        ...

    def note(self, text: str) -> None:
        """A remark."""
        ...

    def fail(self, error: SwarmError) -> None:
        """Something did not work; raises it where nobody is there to go on."""
        ...


class PlainScreen:
    """A line of stdin is a message; answers go to stdout, remarks nowhere, and the first error ends the chat."""

    def read(self) -> str | None:
        try:
            line = sys.stdin.readline()
        except UnicodeDecodeError as exc:
            raise ConfigError(f"stdin is not UTF-8 text (byte {exc.start})") from exc
        return line.rstrip("\r\n") if line else None

    @contextmanager
    def answering(self, progress: AnswerProgress) -> Iterator[Callable[[str], None]]:
        def write(text: str) -> None:
            sys.stdout.write(text)
            sys.stdout.flush()

        try:
            yield write
        finally:
            write("\n")

    def say(self, text: str) -> None:
        typer.echo(text)

    def note(self, text: str) -> None:
        """Nobody reads remarks here."""

    def fail(self, error: SwarmError) -> None:
        raise error
