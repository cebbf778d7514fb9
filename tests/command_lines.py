"""Command lines of `swarm` that stand in pages and files, checked against the real commands."""

from __future__ import annotations

import re
import shlex
from typing import Any

from swarm.cli.main import COMMANDS
from tests.cli_reference import loaded
from tests.page_blocks import commands_in

ADDRESS = "/ip4/192.168.1.20/tcp/31330/p2p/12D3KooWQYhTNQdmr3ArTeUHRYzFg94BKyTkoWBDWez9kSCVe2Xo"
_PROGRAM = re.compile(r"(\S*/bin/)?swarm")
_IMAGE = re.compile(r"layerswarm:\S+")


def parsed(arguments: list[str]) -> dict[str, Any]:
    """What the command line gives to its command, values as they are written.

    Raises:
        AssertionError: if there is no such command, option or argument.
    """
    name, *rest = arguments
    assert name in COMMANDS, f"there is no command {name!r}"
    command = loaded(name)
    try:
        context = command.make_context(name, list(rest))
    except Exception as error:  # of the parser that typer builds on, whichever it is
        if not hasattr(error, "format_message"):
            raise
        raise AssertionError(f"swarm {shlex.join(arguments)}: {error.format_message()}") from error
    return dict(context.params)


def told_in(shell: str) -> list[list[str]]:
    """The arguments of every `swarm` in a block of shell, also of one in a virtual environment or a container."""
    found = []
    for line in commands_in(shell):
        for part in (each for each in line.split("&&") if "swarm" in each):
            words = shlex.split(part, comments=True)
            if _PROGRAM.fullmatch(words[0]):
                found.append(words[1:])
            elif words[:2] == ["docker", "run"]:
                found.append(words[next(i for i, word in enumerate(words) if _IMAGE.fullmatch(word)) + 1 :])
    return found
