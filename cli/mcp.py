"""`swarm mcp`: the swarm as tools of a language model, over the Model Context Protocol."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from swarm.cli.event_loop import run_async
from swarm.cli.mcp_settings import McpSettings
from swarm.cli.options import command_of
from swarm.cli.ready_file import clear_ready_file
from swarm.core.errors import ConfigError

if TYPE_CHECKING:
    from swarm.peer.ready import ReadyInfo

MISSING = "the MCP server's packages are not installed: pip install 'layerswarm[mcp]'"
_PACKAGES = ("mcp", "mcp_types", "fastapi", "uvicorn", "starlette", "scipy")


def mcp(settings: McpSettings) -> None:
    """Offer a model of the swarm, and the swarm itself, as MCP tools and resources.

    Over stdin and stdout, as programs that start it expect, or with --http on a port until Ctrl-C. The swarm is joined
    when a client first asks for something.
    """
    settings.start_log()
    clear_ready_file(settings.ready_file)
    config = settings.mcp_config()
    try:
        from swarm.mcp_server.server import serve  # imports torch, transformers and hivemind: seconds
    except ModuleNotFoundError as exc:
        if (exc.name or "").partition(".")[0] not in _PACKAGES:
            raise
        raise ConfigError(MISSING) from exc
    run_async(serve(config, _announce))


def _announce(info: ReadyInfo) -> None:
    typer.echo(f"{info.model} is offered to MCP clients at {info.addresses[0]}; Ctrl-C ends it.")


command = command_of(McpSettings, mcp)
