"""Runs a peer from configuration to shutdown: node, place, load, probe, announce, drain."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

import torch

from swarm.core.config import CODINGS, PeerConfig
from swarm.core.errors import ConfigError, SwarmError
from swarm.core.precision import precision_name
from swarm.core.span import Span
from swarm.core.version import VERSION
from swarm.peer.announcer import Announcer
from swarm.peer.capacity import MemoryPlan, check_explicit_cache, kv_bytes_per_token, weight_factor
from swarm.peer.device import choose_device, free_memory
from swarm.peer.executor import Executor
from swarm.peer.kv_pool import KVPool
from swarm.peer.offer import Offer
from swarm.peer.position import Position
from swarm.peer.probe import probe
from swarm.peer.ready import ReadyInfo, write_ready_file
from swarm.peer.service import Doorkeeper, Service
from swarm.peer.sessions import SessionTable
from swarm.peer.stop_signals import StopSignals
from swarm.routing.announcement import claims, decode
from swarm.routing.placement import choose_span
from swarm.routing.records import BUCKETS, PeerRecord, PeerState, model_key
from swarm.routing.view import SwarmView
from swarm.security.identity import Identity
from swarm.shards.products import limit_threads
from swarm.shards.shard import Shard
from swarm.shards.source import ModelSource
from swarm.shards.stack import text_config
from swarm.wire.messages import PROTOCOL_VERSION
from swarm.wire.node import Node

logger = logging.getLogger(__name__)
WITHDRAW_S = 2.0
LOCATE_S = 10.0


@dataclass(frozen=True, slots=True)
class _Place:
    """What was decided before loading."""

    span: Span
    cache_tokens: int
    device: torch.device
    dtype: torch.dtype


async def serve(config: PeerConfig, *, on_ready: Callable[[ReadyInfo], None] = lambda info: None) -> None:
    """Serve until SIGINT or SIGTERM (drains; a second one stops at once).

    Raises:
        SwarmError: one line that says why the peer cannot serve.
    """
    stop = StopSignals()
    executor = Executor()
    try:
        await _serve(config, on_ready, stop, executor)
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
    config: PeerConfig, on_ready: Callable[[ReadyInfo], None], stop: StopSignals, executor: Executor
) -> None:
    if config.threads is not None:
        limit_threads(config.threads)
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
    try:
        place = await _choose_place(config, source, device, node)
        load = partial(Shard.load, source, place.span, dtype=place.dtype, device=device)
        shard = await executor.run(partial(load, quantize=config.quantize))
        batching = await executor.run(lambda: shard.batching)
        await executor.run(lambda: shard.recording(shard.span))  # tried out in the device's thread
        logger.info(
            "steps of several sessions run %s",
            batching if batching == "one by one" else f"in one {batching} batch",
        )
        name = precision_name(str(place.dtype).removeprefix("torch."), config.quantize)
        offer = Offer(shard, source.uid, source.short_name, name, source.n_layers)
        async with asyncio.TaskGroup() as tasks:
            sessions = SessionTable(KVPool(place.cache_tokens), config.limits)
            service = door.service = Service(node, offer, sessions, executor, tasks)
            running = _Peer(config, node, offer, service, tasks)
            tasks.create_task(running.run(on_ready, stop))
    finally:
        await node.stop()


def _check_span(span: Span, source: ModelSource) -> None:
    if span.end > source.n_layers:
        raise ConfigError(f"--layers {span}: {source.name} has only layers 0:{source.n_layers}")


async def _choose_place(config: PeerConfig, source: ModelSource, device: torch.device, node: Node) -> _Place:
    dtype = source.dtype(config.dtype)
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
    span = config.layers
    if span is None:
        capacity = plan.layers_that_fit(config.cache_tokens, layers)
        span = choose_span(await _view(node, source.uid), layers, capacity, together=source.inseparable)
    tokens = config.cache_tokens or plan.cache_tokens_that_fit(len(span))
    plan.check(len(span), tokens)
    return _Place(span, tokens, device, dtype)


async def _view(node: Node, model_uid: str) -> SwarmView:
    bodies = await node.directory.fetch([model_key(model_uid, bucket) for bucket in range(BUCKETS)])
    now = node.directory.now()
    return SwarmView.of(map(decode, bodies), now=now, model_uid=model_uid, protocol=PROTOCOL_VERSION)


class _Peer:
    """A loaded peer from its first announcement to its last."""

    def __init__(
        self, config: PeerConfig, node: Node, offer: Offer, service: Service, tasks: asyncio.TaskGroup
    ) -> None:
        self._config = config
        self._offer = offer
        self._node = node
        self._tasks = tasks
        self._probed_s_per_layer = 0.0
        self._position = Position()
        self._announcer = Announcer(node.directory, self._record, config.limits.lease_s)
        self.service = service
        service.sessions.on_change(self._announcer.touch)

    async def run(self, on_ready: Callable[[ReadyInfo], None], stop: StopSignals) -> None:
        watch = self._tasks.create_task(self._watch_node())
        result = await probe(self._node, self._offer)
        self._probed_s_per_layer = result.seconds_per_layer
        await self._announcer.announce(PeerState.ONLINE)
        renewal = self._tasks.create_task(self._announcer.renew())
        locating = self._tasks.create_task(self._locate())
        info = ReadyInfo(
            self._node.peer_id,
            tuple(self._node.addresses),
            self._offer.model_name,
            str(self._offer.span),
            os.getpid(),
        )
        if self._config.ready_file is not None:
            write_ready_file(self._config.ready_file, info)
        stop.serving()
        on_ready(info)
        await stop.first.wait()
        await self._leave(stop)
        for task in (watch, renewal, locating):
            task.cancel()
        self.service.stop()

    async def _locate(self) -> None:
        """Keep the position in the network current."""
        while True:
            await asyncio.sleep(LOCATE_S)
            try:
                view = await _view(self._node, self._offer.model_uid)
            except SwarmError as error:
                logger.info("the records could not be read: %s", error)
            else:
                links = ((link.peer_id, link.rtt_s) for link in self._node.links())
                self._position.learn(links, view.by_id)

    async def _watch_node(self) -> None:
        raise await self._node.wait_failed()

    async def _leave(self, stop: StopSignals) -> None:
        drained = self._tasks.create_task(self._drain())
        at_once = self._tasks.create_task(stop.second.wait())
        await asyncio.wait({drained, at_once}, return_when=asyncio.FIRST_COMPLETED)
        for task in (drained, at_once):
            task.cancel()
        with suppress(TimeoutError):
            async with asyncio.timeout(WITHDRAW_S):
                await self._announcer.withdraw()

    async def _drain(self) -> None:
        self.service.drain()
        await self._announcer.announce(PeerState.DRAINING)
        await self.service.emptied(self._config.limits.drain_s)

    def _record(self, state: PeerState, now: float, expires_at: float) -> PeerRecord:
        load = self.service.load
        offer, span = self._offer, self._offer.span
        measured = load.decode_s / len(span) if load.decode_s else self._probed_s_per_layer
        return PeerRecord(
            protocol=PROTOCOL_VERSION,
            peer_id=self._node.peer_id,
            name=self._config.name or "",
            addresses=tuple(self._node.addresses)[:16],
            model_uid=offer.model_uid,
            model_name=offer.model_name,
            layers=offer.layers,
            start=span.start,
            end=span.end,
            state=state,
            precision=offer.precision,
            batching=offer.shard.batching,
            codings=CODINGS,
            seconds_per_layer=measured,
            queue_s=load.queue_s,
            sessions=load.sessions,
            free_tokens=load.free_tokens,
            total_tokens=load.total_tokens,
            computed_tokens=load.computed_tokens,
            links={
                link.peer_id: link.rtt_s / 2 for link in self._node.links()[:32] if link.rtt_s is not None
            },
            coordinate=self._position.published,
            version=VERSION,
            issued_at=now,
            expires_at=expires_at,
        )
