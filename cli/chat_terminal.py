"""A chat in a terminal: messages of several lines with history, answers above a live line."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import typer
from prompt_toolkit import PromptSession
from prompt_toolkit.completion import WordCompleter
from prompt_toolkit.history import FileHistory, History, InMemoryHistory
from prompt_toolkit.input import Input
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.output import Output

from swarm.cli.answer_progress import AnswerProgress
from swarm.cli.chat_commands import COMMANDS
from swarm.cli.failure import describe
from swarm.cli.live_line import LiveLine, printable
from swarm.core.errors import ConfigError, SwarmError

PROMPT = "> "
LEAVE = "/quit or Ctrl-D leaves"


class TerminalScreen:
    """Use it as a context: meanwhile, warnings go to the live line.

    Args:
        history: where messages are kept; None keeps them in memory.
        source, sink: another terminal than this process's own.
    """

    def __init__(self, history: Path | None, source: Input | None = None, sink: Output | None = None) -> None:
        self._prompts: PromptSession[str] = PromptSession(
            PROMPT,
            multiline=True,
            prompt_continuation="  ",
            key_bindings=_keys(),
            history=_history(history),
            completer=WordCompleter([f"/{name}" for name in COMMANDS], sentence=True),
            complete_while_typing=False,
            input=source,
            output=sink,
        )

    def read(self) -> str | None:
        try:
            return self._prompts.prompt()
        except EOFError:
            return None
        except KeyboardInterrupt:
            self.note(LEAVE)
            return ""

    @contextmanager
    def answering(self, progress: AnswerProgress) -> Iterator[Callable[[str], None]]:
        last = "\n"
        with LiveLine(sys.stdout, progress.line) as line, _warnings_to(progress.notice):

            def write(text: str) -> None:
                nonlocal last
                line.write(printable(text))
                last = text[-1:] or last

            try:
                yield write
            finally:
                if last != "\n":
                    line.write("\n")

    def say(self, text: str) -> None:
        typer.echo(printable(text))

    def note(self, text: str) -> None:
        typer.secho(printable(text), dim=True)

    def fail(self, error: SwarmError) -> None:
        typer.secho(f"error: {describe(error)[0]}", fg="red")


def _keys() -> KeyBindings:
    """Enter sends; Alt-Enter begins a new line."""
    keys = KeyBindings()

    @keys.add("enter")
    def send(event: KeyPressEvent) -> None:
        event.current_buffer.validate_and_handle()

    @keys.add("escape", "enter")
    def break_line(event: KeyPressEvent) -> None:
        event.current_buffer.insert_text("\n")

    return keys


def _history(path: Path | None) -> History:
    if path is None:
        return InMemoryHistory()
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.close(os.open(path, os.O_CREAT | os.O_APPEND | os.O_WRONLY, 0o600))
    except OSError as exc:
        raise ConfigError(
            f"--history {path}: {exc.strerror}: give another file, or --no-keep-history"
        ) from exc
    return FileHistory(str(path))


@contextmanager
def _warnings_to(tell: Callable[[str], None]) -> Iterator[None]:
    """Hand warnings of this package to `tell`, not to stderr, unless somebody is debugging."""
    ours = logging.getLogger("swarm")
    if ours.isEnabledFor(logging.DEBUG):
        yield
        return
    handler = _Teller(tell)
    ours.addHandler(handler)
    propagated, ours.propagate = ours.propagate, False
    try:
        yield
    finally:
        ours.propagate = propagated
        ours.removeHandler(handler)


class _Teller(logging.Handler):
    def __init__(self, tell: Callable[[str], None]) -> None:
        super().__init__(logging.WARNING)
        self._tell = tell

    def emit(self, record: logging.LogRecord) -> None:
        self._tell(record.getMessage())
