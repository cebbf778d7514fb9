"""Entry point of the `swarm` command.

Commands are loaded when they are called, so that `swarm --help` imports neither torch nor pydantic.
"""

from __future__ import annotations

import os
import signal
import sys
from importlib import import_module
from io import TextIOWrapper
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from swarm.cli.failure import report, silence_broken_pipe
from swarm.cli.logs import start_logging

# name -> what --help says; the module swarm.cli.<name>, with _ for -, has `command`
COMMANDS = {
    "serve": "Serve layers of a model to the swarm.",
    "generate": "Generate text over the swarm.",
    "chat": "Talk with a model of the swarm in the terminal.",
    "gateway": "Serve a model of the swarm over HTTP, as OpenAI and Anthropic do.",
    "gateway-key": "Make an API key for a gateway.",
    "mcp": "Offer the swarm as tools of a language model (MCP).",
    "status": "Show who serves which layers.",
    "bootstrap": "Run a node without layers, as a fixed address to join.",
    "check": "Compare a model cut into spans with the whole one.",
    "demo": "Try it: a small swarm on this machine that loses a peer.",
    "bench": "Measure a swarm on this machine beside the local model.",
    "tune": "Find the fastest settings for a peer on this machine.",
    "simulate": "Simulate swarms of many peers in virtual time.",
    "version": "Print the versions of this program and of what it builds on.",
}

_EPILOG = "Every option is also read from SWARM_OPTION_NAME in the environment and from a --config file."

# what the libraries below read when they are imported; the user's own values stand
_LIBRARY_ENVIRONMENT = {
    "TRANSFORMERS_VERBOSITY": "error",
    "HIVEMIND_LOGLEVEL": "CRITICAL",
    "TOKENIZERS_PARALLELISM": "false",
}


class LazyGroup(TyperGroup):
    """Lists commands from the table above, and imports the one that is called."""

    def list_commands(self, ctx: Any) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        summary = COMMANDS.get(cmd_name)
        return None if summary is None else TyperCommand(cmd_name, help=summary)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        name, _, rest = super().resolve_command(ctx, args)
        return name, None if name is None else _load(name), rest


def _load(name: str) -> Any:
    single = typer.Typer(add_completion=False, rich_markup_mode="rich")
    single.command(name, epilog=_EPILOG, short_help=COMMANDS[name])(
        import_module(f"swarm.cli.{name.replace('-', '_')}").command
    )
    return typer.main.get_command(single)


app = typer.Typer(cls=LazyGroup, rich_markup_mode="rich", invoke_without_command=True)


def _show_version(wanted: bool) -> None:
    if wanted:
        import_module("swarm.cli.version").command()
        raise typer.Exit


@app.callback()
def _root(
    context: typer.Context,
    debug: Annotated[
        bool, typer.Option("--debug", help="Show tracebacks and logs; or SWARM_DEBUG=1.")
    ] = False,
    version: Annotated[
        bool,
        typer.Option("--version", is_eager=True, callback=_show_version, help="Print the version and leave."),
    ] = False,
) -> None:
    """Run large language models together with others, over layers that each machine holds."""
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


def run(arguments: list[str]) -> int:
    """Run one command line and return its exit status; errors are printed, never raised."""
    debug = arguments[:1] == ["--debug"] or os.environ.get("SWARM_DEBUG", "") not in ("", "0")
    start_logging(debug)
    try:
        status = app(arguments, prog_name="swarm", standalone_mode=False)
        sys.stdout.flush()
    except BrokenPipeError as exc:
        silence_broken_pipe()
        return report(exc, debug=False)
    except (Exception, KeyboardInterrupt) as exc:
        return report(exc, debug=debug)
    return status if isinstance(status, int) else 0


def end_on_signals() -> None:
    """Let SIGTERM and SIGHUP unwind the stack as Ctrl-C does, so that nothing is left behind."""

    def end(number: int, frame: object) -> None:
        sys.exit(128 + number)

    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, end)


def main() -> None:
    """Console script."""
    end_on_signals()
    for name, value in _LIBRARY_ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal that cannot show a character shows ?
    sys.exit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()
