"""Where results go: in the width of the terminal, or in wide and plain lines where there is none."""

from __future__ import annotations

from rich.console import Console

_WIDE = 200


def result_console() -> Console:
    """On stdout; a table that goes into a file or a pipe loses nothing to the usual 80 columns."""
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=_WIDE)
