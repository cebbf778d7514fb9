"""Runs a peer from configuration to shutdown: node, model, memory, and then its life."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch

from swarm.core.config import PeerConfig
from swarm.core.errors import ConfigError, SwarmError
from swarm.core.span import Span
from swarm.peer.capacity import MemoryPlan, check_explicit_cache, kv_bytes_per_token, weight_factor
from swarm.peer.device import choose_device, free_memory
from swarm.peer.executor import Executor
from swarm.peer.life import Life
from swarm.peer.ready import ReadyInfo
from swarm.peer.service import Doorkeeper
from swarm.peer.slowdown import SlowedExecutor
from swarm.peer.stint import Workshop
from swarm.peer.stop_signals import StopSignals
from swarm.peer.watch import Watch, watched
from swarm.routing.announcement import claims
from swarm.security.identity import Identity
from swarm.shards.compiled import keep_compiled
from swarm.shards.products import limit_threads
from swarm.shards.source import ModelSource
from swarm.shards.stack import text_config
from swarm.wire.node import Node


async def serve(config: PeerConfig, *, on_ready: Callable[[ReadyInfo], None] = lambda info: None) -> None:
    """Serve until SIGINT or SIGTERM (drains; a second one stops at once).

    Raises:
        SwarmError: one line that says why the peer cannot serve.
    """
    stop = StopSignals()
    executor = Executor() if config.slowdown_file is None else SlowedExecutor(config.slowdown_file)
    try:
        async with watched(config.metrics) as watch:
            await _serve(config, on_ready, stop, executor, watch)
    except* SwarmError as group:
        raise _first(group) from None
    except* asyncio.CancelledError:
        if not stop.interrupted:
            raise
    finally:
        executor.stop()
        stop.uninstall()


def _first(group: BaseExceptionGroup[SwarmError]) -> SwarmError:
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    assert isinstance(error, SwarmError)
    return error


async def _serve(
    config: PeerConfig,
    on_ready: Callable[[ReadyInfo], None],
    stop: StopSignals,
    executor: Executor,
    watch: Watch,
) -> None:
    if config.threads is not None:
        limit_threads(config.threads)
    if config.compiled_folder is not None:
        keep_compiled(config.compiled_folder)
    # not asyncio.to_thread: the loop would wait for its threads, and a stop for the end of a download
    source = await executor.run(partial(ModelSource.open, config.model))
    device = choose_device(config.device)
    if config.cache_tokens is not None:
        check_explicit_cache(config.cache_tokens)
    if config.layers is not None:
        _check_span(config.layers, source)
    path = config.node.identity_path
    identity = Identity.ephemeral() if path is None else Identity.load_or_create(path)
    door = Doorkeeper()
    node = await Node.start(config.node, identity, handler=door.handle, inspect=claims)
    watch.joined(node)
    try:
        dtype = source.dtype(config.dtype)
        room = _room(config, source, device, dtype)
        async with asyncio.TaskGroup() as tasks:
            shop = Workshop(
                config, source, node, door, executor, tasks, watch, device, dtype, room.cache_tokens
            )
            life = Life(shop)
            tasks.create_task(life.run(room.layers, on_ready, stop))
    finally:
        await node.stop()


@dataclass(frozen=True, slots=True)
class _Room:
    """How many layers this peer serves, and how many tokens it caches."""

    layers: int
    cache_tokens: int


def _room(config: PeerConfig, source: ModelSource, device: torch.device, dtype: torch.dtype) -> _Room:
    stored = source.dtype("auto")
    factor = weight_factor(stored.itemsize, dtype.itemsize, config.quantize)
    layers = source.n_layers
    text = text_config(source.config)
    plan = MemoryPlan(
        free_bytes=free_memory(device),
        layer_bytes=int(max(source.layer_bytes(Span(i, i + 1)) for i in range(layers)) * factor),
        kv_bytes=kv_bytes_per_token(text, dtype.itemsize),
        kept_bytes=text.hidden_size * dtype.itemsize,
    )
    if config.layers is not None:
        count = len(config.layers)
    else:
        count = min(plan.layers_that_fit(config.cache_tokens, layers), config.max_layers or layers)
    tokens = config.cache_tokens or plan.cache_tokens_that_fit(count)
    plan.check(count, tokens)
    return _Room(count, tokens)


def _check_span(span: Span, source: ModelSource) -> None:
    if span.end > source.n_layers:
        raise ConfigError(f"--layers {span}: {source.name} has only layers 0:{source.n_layers}")
