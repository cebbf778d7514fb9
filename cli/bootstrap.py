"""`swarm bootstrap`: a node without layers, whose address is there for others to join."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from swarm.cli.claimed_identity import claimed_identity
from swarm.cli.event_loop import run_async
from swarm.cli.log_settings import LogSettings
from swarm.cli.options import command_of
from swarm.cli.ready_file import clear_ready_file
from swarm.cli.serve_settings import NodeSettings
from swarm.core.errors import RequestError

if TYPE_CHECKING:
    from swarm.wire.link import Link
    from swarm.wire.message import Message
    from swarm.wire.node import Node


class BootstrapSettings(NodeSettings, LogSettings):
    """`swarm bootstrap`."""

    PANEL = "Options"


def bootstrap(settings: BootstrapSettings) -> None:
    """Run a node without layers, as a fixed address to join, until Ctrl-C.

    Give it a --port, so that its address stays the same when it starts again. Any peer's address serves as well.
    """
    settings.start_log()
    clear_ready_file(settings.ready_file)
    with claimed_identity(settings.identity, "identity-bootstrap") as identity:
        run_async(_run(settings, identity))


async def _run(settings: BootstrapSettings, identity: Path) -> None:
    from swarm.peer.ready import ReadyInfo, tell_ready
    from swarm.routing.announcement import claims
    from swarm.security.identity import Identity
    from swarm.wire.node import Node  # imports hivemind

    stopped = _stop_signal()
    node = await Node.start(
        settings.node_config(identity), Identity.load_or_create(identity), handler=_refuse, inspect=claims
    )
    try:
        info = ReadyInfo(node.peer_id, tuple(node.addresses), None, None, os.getpid())
        tell_ready(info, settings.ready_file)
        for line in _start_up_lines(info.addresses):
            typer.echo(line)
        await _stopped_or_failed(node, stopped)
    finally:
        await node.stop()


def _start_up_lines(addresses: tuple[str, ...]) -> list[str]:
    return [
        typer.style("This node is a way into the swarm", bold=True),
        *(f"  address  {address}" for address in addresses),
        "Join with a peer:",
        typer.style(f"  swarm serve MODEL --peers {addresses[0]}", fg="green"),
    ]


async def _refuse(link: Link, message: Message, payload: memoryview) -> None:
    raise RequestError("this node serves no layers: it only helps others to find each other")


def _stop_signal() -> asyncio.Event:
    """Set by SIGINT or SIGTERM."""
    stopped = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    return stopped


async def _stopped_or_failed(node: Node, stopped: asyncio.Event) -> None:
    """Wait for a signal.

    Raises:
        NodeError: the node broke down before.
    """
    failed = asyncio.ensure_future(node.wait_failed())
    asked = asyncio.ensure_future(stopped.wait())
    done, pending = await asyncio.wait({failed, asked}, return_when=asyncio.FIRST_COMPLETED)
    for future in pending:
        future.cancel()
    if failed in done and asked not in done:
        raise failed.result()


command = command_of(BootstrapSettings, bootstrap)
