"""`swarm serve`: a peer, from its options to its start-up message."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

import typer

from swarm.cli.claimed_identity import claimed_identity
from swarm.cli.event_loop import run_async
from swarm.cli.logs import tell_decisions
from swarm.cli.options import command_of
from swarm.cli.ready_file import clear_ready_file
from swarm.cli.serve_settings import ServeSettings
from swarm.core.config import PeerConfig
from swarm.core.lasting import lasting
from swarm.core.late_imports import late_imports
from swarm.core.user_folders import cache_folder

if TYPE_CHECKING:
    from swarm.peer.ready import ReadyInfo

_HUGE_PAGES = "THP_MEM_ALLOC_ENABLE"  # torch asks for weights in huge pages, which one core reads 5% faster


def serve(settings: ServeSettings) -> None:
    """Serve layers of a model to the swarm, until Ctrl-C.

    Without --peers this starts a new swarm; it prints the line with which others join.
    """
    settings.start_log()
    tell_decisions()
    clear_ready_file(settings.ready_file)
    with claimed_identity(settings.identity) as identity:
        config = settings.peer_config(identity, cache_folder())
        if sys.stderr.isatty():  # in a log or a script, errors and decisions alone stand on stderr
            typer.echo(f"Loading {config.model.name} ...", err=True)
        os.environ.setdefault(_HUGE_PAGES, "1")
        with lasting("torch"), late_imports():
            from swarm.peer.server import serve as serve_peer  # imports torch and transformers: seconds

        run_async(serve_peer(config, on_ready=_announcer(config)))
    typer.echo("Left the swarm.")


def _announcer(config: PeerConfig) -> Callable[[ReadyInfo], None]:
    def announce(info: ReadyInfo) -> None:
        for line in start_up_lines(config, info, _device_line(config.device)):
            typer.echo(line)

    return announce


def start_up_lines(config: PeerConfig, info: ReadyInfo, device: str) -> list[str]:
    """What a peer says when it serves; the commands in it are ready to paste."""
    model, address = shlex.quote(config.model.name), info.addresses[0]
    name = config.name or info.peer_id
    return [
        typer.style(f"{name} serves layers {info.span} of {info.model}", bold=True),
        f"  on       {device}",
        *(f"  address  {address}" for address in info.addresses),
        *([f"  metrics  {info.metrics}"] if info.metrics else []),
        "Join with another peer:",
        typer.style(f"  swarm serve {model} --peers {address}", fg="green"),
        "Generate:",
        typer.style(f"  swarm generate {model} 'Once upon a time' --peers {address}", fg="green"),
        f"Ctrl-C leaves the swarm; running sessions get up to {config.limits.drain_s:g} s, a second Ctrl-C ends them.",
    ]


def _device_line(name: str) -> str:
    import psutil
    import torch  # loaded long before a peer is ready

    from swarm.peer.device import choose_device

    device = choose_device(name)
    if device.type == "cuda":
        used, what = torch.cuda.memory_allocated(device), torch.cuda.get_device_name(device)
        return f"{device} ({what}), {used / 2**20:,.0f} MiB of its memory in use"
    used = psutil.Process().memory_info().rss
    return f"{device}, {torch.get_num_threads()} threads, {used / 2**20:,.0f} MiB of memory in use"


command = command_of(ServeSettings, serve)
