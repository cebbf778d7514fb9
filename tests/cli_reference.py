"""The page `docs/cli.md`, made from the commands themselves.

`make reference` writes it; `tests/test_docs.py` holds it.
"""

from __future__ import annotations

from typing import Any

import typer

from swarm.cli.main import COMMANDS, app
from tests.source_map import ROOT

PAGE = ROOT / "docs" / "cli.md"
HEAD = """\
# Commands

What `swarm --help` and `swarm COMMAND --help` say, written by `make reference`.

Every option can also stand in the environment (`SWARM_CACHE_TOKENS=8192`) or in a YAML file with the names of the
options (`--config FILE.yaml`). A flag goes before the environment, that before the file, that before the default.

The exit status is 0 if all went well, 1 if it failed, 2 if something that you gave is wrong, 130 after Ctrl-C. An error
is one line on stderr; `swarm --debug COMMAND ...` shows where it came from.
"""


def loaded(name: str) -> Any:
    """The command of this name, with its options, as the command line itself finds it."""
    group: Any = typer.main.get_command(app)
    return group.resolve_command(typer.Context(group), [name])[1]


def page() -> str:
    """The whole page as it should be."""
    index = ["| | |", "|---|---|"] + [
        f"| [`swarm {name}`](#swarm-{name}) | {COMMANDS[name]} |" for name in COMMANDS
    ]
    return "\n".join([HEAD, *index, *(line for name in COMMANDS for line in _section(name))]) + "\n"


def _section(name: str) -> list[str]:
    command = loaded(name)
    arguments = [parameter for parameter in command.params if parameter.param_type_name == "argument"]
    options = [parameter for parameter in command.params if parameter not in arguments]
    lines = [
        "",
        f"## swarm {name}",
        "",
        "    " + " ".join(["swarm", name, *map(_written, arguments), "[OPTIONS]"]),
    ]
    for paragraph in (command.help or "").split("\n\n"):
        lines += ["", " ".join(paragraph.split())]
    if arguments:
        lines += _table("argument", arguments)
    panels = dict.fromkeys(option.rich_help_panel or "Options" for option in options)
    for panel in panels:
        members = [option for option in options if (option.rich_help_panel or "Options") == panel]
        lines += _table("option" if panel == "Options" else panel, members)
    return lines


def _table(title: str, parameters: list[Any]) -> list[str]:
    rows = (
        f"| `{_written(each)}` | {(each.help or '').replace(chr(92) + '[', '[')} |" for each in parameters
    )
    return ["", f"| {title} | |", "|---|---|", *rows]


def _written(parameter: Any) -> str:
    """`MODEL`, `--cache-tokens N`, or both names of a switch."""
    names = "`, `".join([*parameter.opts, *parameter.secondary_opts])
    if parameter.param_type_name == "argument":
        return str(parameter.metavar)
    return names if parameter.is_flag else f"{names} {parameter.metavar}".replace("|", "\\|")


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
