"""`swarm gateway`: the model of a swarm behind the HTTP APIs of OpenAI and Anthropic."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

import typer

from swarm.cli.event_loop import run_async
from swarm.cli.gateway_settings import GatewaySettings
from swarm.cli.options import command_of
from swarm.cli.ready_file import clear_ready_file
from swarm.core.errors import ConfigError

if TYPE_CHECKING:
    from swarm.peer.ready import ReadyInfo

MISSING = "the gateway's packages are not installed: pip install 'layerswarm[gateway]'"


def gateway(settings: GatewaySettings) -> None:
    """Serve a model of the swarm over HTTP, until Ctrl-C.

    Clients of OpenAI's and Anthropic's APIs work with it: chat, completions, responses and messages, with streaming.
    """
    settings.start_log()
    clear_ready_file(settings.ready_file)
    config = settings.gateway_config()
    if sys.stderr.isatty():
        typer.echo(f"Loading {config.model.name} ...", err=True)
    try:
        from swarm.gateway.server import serve  # imports torch, transformers and hivemind: seconds
    except ModuleNotFoundError as exc:
        if (exc.name or "").partition(".")[0] not in ("fastapi", "uvicorn", "starlette"):
            raise
        raise ConfigError(MISSING) from exc
    run_async(serve(config, on_ready=_announcer(settings)))
    typer.echo("Left the swarm.")


def _announcer(settings: GatewaySettings) -> Callable[[ReadyInfo], None]:
    def announce(info: ReadyInfo) -> None:
        url, name = info.addresses[0], info.model or ""
        chat = f'{{"model": "{name}", "messages": [{{"role": "user", "content": "Hello!"}}]}}'
        lines = [
            typer.style(f"{name} is served at {url}/v1", bold=True),
            f"Chat and watch the swarm in a browser: {url}/",
            "Or ask it from a program:",
            typer.style(
                f"  curl {url}/v1/chat/completions -H 'content-type: application/json' -d {shlex.quote(chat)}",
                fg="green",
            ),
            f"Ctrl-C takes no new requests and lets answers end for up to {settings.drain_s:g} s; "
            "a second Ctrl-C ends them.",
        ]
        for line in lines:
            typer.echo(line)

    return announce


command = command_of(GatewaySettings, gateway)
