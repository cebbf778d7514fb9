"""A gateway from its first look at the swarm to its last answer."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import TYPE_CHECKING

import torch
import uvicorn

from swarm.client.model import SwarmModel
from swarm.core.errors import ConfigError, NodeError
from swarm.gateway.account import Account
from swarm.gateway.admission import Admission
from swarm.gateway.app import build_app
from swarm.gateway.config import GatewayConfig
from swarm.gateway.desk import Desk
from swarm.gateway.door import Door
from swarm.gateway.lookout import Lookout
from swarm.gateway.meter import Meter
from swarm.gateway.pooling import read_pooling
from swarm.gateway.prompts import Prompter
from swarm.gateway.routes import Gateway
from swarm.gateway.vocabulary import Vocabulary
from swarm.peer.ready import ReadyInfo, tell_ready
from swarm.shards.checkpoint_index import CheckpointIndex
from swarm.shards.tokenizer import load_tokenizer

if TYPE_CHECKING:
    from swarm.gateway.tracing import Traces

logger = logging.getLogger(__name__)

Ready = Callable[[ReadyInfo], None]
_BACKLOG = 2048


async def serve(config: GatewayConfig, on_ready: Ready) -> None:
    """Serve until SIGINT or SIGTERM, which let running answers end; a second one ends them.

    Raises:
        ConfigError: a setting or the file of keys cannot be used.
        ModelError: the model cannot be used, or has no tokenizer.
        NodeError: the port is in use, or no peer can be reached.
        SwarmUnavailable: nobody serves this model.
    """
    torch.set_num_threads(config.threads)
    door = Door(config.keys)
    with listening(config.host, config.port) as listener, await asyncio.to_thread(_load, config) as model:
        async with _gateway(config, model, door) as gateway:
            await _run(config, gateway, listener, on_ready)


def _load(config: GatewayConfig) -> SwarmModel:
    return SwarmModel.from_pretrained(
        config.model.name,
        peers=config.peers,
        dtype=config.dtype,
        revision=config.model.revision,
        token=config.model.token,
        cache_dir=config.model.cache_dir,
        config=config.client,
    )


@asynccontextmanager
async def _gateway(config: GatewayConfig, model: SwarmModel, door: Door) -> AsyncIterator[Gateway]:
    """A gateway that generates; its threads and its pulse end with the context."""
    index = await asyncio.to_thread(CheckpointIndex.open, config.model)
    name = config.name or index.short_name
    tokenizer = await asyncio.to_thread(load_tokenizer, config.model)
    vocabulary = Vocabulary(tokenizer, model.config, model.generation_config)
    admission = Admission(config.sessions, config.queue)
    meter = Meter(admission, model.stats, book=model.swarm)
    traces = _traces(config, name)

    def tell(account: Account) -> None:
        account.log()
        if traces is not None:
            traces.tell(account)

    speculates = config.speculate == "auto" and model.speculation.can_roll_back
    desk = Desk(model, vocabulary, admission, meter, tell, speculates=speculates)
    lookout = Lookout(model.swarm.look, admission, model.stats)
    pooling = await asyncio.to_thread(read_pooling, index.files.fetch)
    gateway = Gateway(name, Prompter(vocabulary, name), desk, door, meter, lookout, pooling)
    beating = asyncio.create_task(gateway.pulse.run())
    try:
        yield gateway
    finally:
        beating.cancel()
        with suppress(asyncio.CancelledError):
            await beating
        await desk.close()
        if traces is not None:
            await asyncio.to_thread(traces.close)


def _traces(config: GatewayConfig, model: str) -> Traces | None:
    """Raises:
    ConfigError: they are wanted, but their packages are not installed.
    """
    if config.otlp is None:
        return None
    try:
        from swarm.gateway.tracing import Traces
    except ModuleNotFoundError as exc:
        raise ConfigError("--otlp needs OpenTelemetry's packages: pip install 'layerswarm[otel]'") from exc
    return Traces.to(config.otlp, model)


async def _run(config: GatewayConfig, gateway: Gateway, listener: socket.socket, on_ready: Ready) -> None:
    settings = uvicorn.Config(
        build_app(gateway, config.max_body_bytes, config.allowed_origins),
        log_config=None,
        access_log=False,
        lifespan="off",
        server_header=False,
        backlog=_BACKLOG,
        timeout_graceful_shutdown=max(1, round(config.drain_s)),
    )
    server = QuietServer(settings)
    with _stopping(server, gateway.desk.admission):
        host, port = listener.getsockname()[:2]
        url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
        info = ReadyInfo("", (url,), gateway.name, None, os.getpid())
        tell_ready(info, config.ready_file)
        on_ready(info)
        await server.serve(sockets=[listener])


class QuietServer(uvicorn.Server):
    """Leaves signals to us: uvicorn would send them once more at its end, and a clean end would look like a death."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@contextmanager
def _stopping(server: uvicorn.Server, admission: Admission) -> Iterator[None]:
    """SIGINT and SIGTERM: first leave in order, then at once."""
    loop = asyncio.get_running_loop()

    def stop() -> None:
        server.force_exit = server.should_exit
        server.should_exit = True
        admission.close()

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop)
    try:
        yield
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)


@contextmanager
def listening(host: str, port: int) -> Iterator[socket.socket]:
    """A socket that listens.

    Raises:
        NodeError: the port is in use, or the address is not of this machine.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server((host, port), family=family, backlog=_BACKLOG)
    except OSError as exc:
        raise NodeError(
            f"cannot listen on {host} port {port}: {exc.strerror or exc}; choose another --port"
        ) from exc
    with listener:
        yield listener
