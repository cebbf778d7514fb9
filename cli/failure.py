"""What the user sees when a command fails: one line on stderr and an exit status.

0 done   1 it failed   2 what the user gave is wrong   130 Ctrl-C
"""

from __future__ import annotations

import logging
import os
import sys
import traceback

import typer

from swarm.cli.logs import logs_json
from swarm.core.errors import ConfigError, SwarmError

logger = logging.getLogger(__name__)
_INTERRUPTED = 130


def report(error: BaseException, *, debug: bool) -> int:
    """Print (or log, where programs read it) what `error` says in one line, with a traceback if `debug`.

    Returns the exit status.
    """
    if debug and not isinstance(error, typer.Abort | KeyboardInterrupt):
        traceback.print_exception(error)
    line, status = describe(error)
    if line and logs_json():
        logger.error(line)
    elif line:
        print(f"error: {line}", file=sys.stderr)
    return status


def describe(error: BaseException) -> tuple[str, int]:
    """The line (empty: say nothing) and the exit status of an error that ended a command."""
    match _innermost(error):
        case SwarmError() as error:
            return _one_line(str(error)), 2 if isinstance(error, ConfigError) else 1
        case typer.Abort() | KeyboardInterrupt():
            return "", _INTERRUPTED
        case BrokenPipeError():
            return "", 1
        case Exception() if hasattr(
            error, "format_message"
        ):  # typer's usage errors, whatever click they come from
            return _one_line(f"{error.format_message()} (see --help)"), int(getattr(error, "exit_code", 2))
        case MemoryError():
            return "out of memory", 1
        case error:
            text = _one_line(f"{type(error).__name__}: {error}")
            return f"unexpected error: {text} (run it again as `swarm --debug ...` for details)", 1


def _innermost(error: BaseException) -> BaseException:
    """The first error inside groups, which task groups make of what happens in their tasks."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def silence_broken_pipe() -> None:
    """After a reader has gone, let the interpreter's last flush of stdout go nowhere."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _one_line(text: str) -> str:
    """Control characters and line breaks would let a message pretend to be several."""
    return "".join(c if c.isprintable() else " " for c in " ".join(text.split()))
