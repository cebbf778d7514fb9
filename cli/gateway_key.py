"""`swarm gateway-key`: makes an API key for a gateway, and shows it once."""

from __future__ import annotations

import typer

from swarm.cli.gateway_settings import GatewayKeySettings
from swarm.cli.options import command_of
from swarm.gateway.key_file import add_key, remove_key


def gateway_key(settings: GatewayKeySettings) -> None:
    """Make an API key, or take one back; running gateways notice at the next request.

    The key is printed once: the file keeps only its hash.
    """
    if settings.remove:
        remove_key(settings.keys, settings.name)
        return
    typer.echo(add_key(settings.keys, settings.name, settings.requests_per_minute, settings.concurrent))


command = command_of(GatewayKeySettings, gateway_key)
