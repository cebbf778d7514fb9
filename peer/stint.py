"""One stint of a peer: it serves one span from loading its layers to giving them up. A move begins another stint."""

from __future__ import annotations

import asyncio
import logging
import platform
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from types import MappingProxyType

import torch
from torch import nn

from swarm.core.config import PeerConfig
from swarm.core.precision import precision_name
from swarm.core.span import Span
from swarm.peer.executor import Executor
from swarm.peer.kv_pool import KVPool
from swarm.peer.offer import Offer
from swarm.peer.probe import probe
from swarm.peer.service import Doorkeeper, Service
from swarm.peer.sessions import SessionTable
from swarm.peer.speed import Speed
from swarm.peer.speed_file import Setup, SpeedFile
from swarm.peer.watch import Watch
from swarm.shards.shard import Shard
from swarm.shards.source import ModelSource
from swarm.wire.node import Node

logger = logging.getLogger(__name__)

Layers = Mapping[int, nn.Module]
NO_LAYERS: Layers = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Workshop:
    """All that stays the same while a peer goes from span to span."""

    config: PeerConfig
    source: ModelSource
    node: Node
    door: Doorkeeper
    executor: Executor
    tasks: asyncio.TaskGroup
    watch: Watch
    device: torch.device
    dtype: torch.dtype
    cache_tokens: int

    @property
    def precision(self) -> str:
        """What announcements call it."""
        return precision_name(str(self.dtype).removeprefix("torch."), self.config.quantize)

    @property
    def setup(self) -> Setup:
        """What the speed of its layers depends on."""
        is_cuda = self.device.type == "cuda"
        name = torch.cuda.get_device_name(self.device) if is_cuda else platform.machine()
        device = f"{self.device.type} {name}"
        return Setup(self.source.uid, platform.node(), device, self.precision, torch.get_num_threads())


@dataclass(slots=True)
class Stint:
    """A loaded shard behind the door.

    Attributes:
        load_s: seconds that loading one layer took.
        probed: the speed that the probe found; nothing before it.
    """

    shop: Workshop
    offer: Offer
    service: Service
    load_s: float
    probed: Speed = field(default=Speed())

    @classmethod
    async def begin(cls, shop: Workshop, span: Span, held: Layers = NO_LAYERS) -> Stint:
        """Load `span`, taking over the layers that are `held`, and open the door; `probe` it before telling others.

        Raises:
            SwarmError: if it cannot be loaded.
        """
        began_s = time.monotonic()
        load = partial(Shard.load, shop.source, span, dtype=shop.dtype, device=shop.device, held=held)
        shard = await shop.executor.run(partial(load, quantize=shop.config.quantize))
        read = sum(index not in held for index in range(span.start, span.end))
        load_s = (time.monotonic() - began_s) / read
        batching = await shop.executor.run(lambda: shard.batching)
        await shop.executor.run(lambda: shard.recorders)  # tried out in the device's thread
        logger.info(
            "steps of several sessions run %s",
            batching if batching == "one by one" else f"in one {batching} batch",
        )
        source = shop.source
        offer = Offer(shard, source.uid, source.short_name, shop.precision, source.n_layers)
        sessions = SessionTable(KVPool(shop.cache_tokens), shop.config.limits)
        service = Service(shop.node, offer, sessions, shop.executor, shop.tasks, shop.watch.tally)
        shop.door.service = service
        shop.watch.serving(
            service,
            peer_id=shop.node.peer_id,
            name=shop.config.name or "",
            model=offer.model_name,
            layers=str(span),
            precision=offer.precision,
        )
        return cls(shop, offer, service, load_s)

    @property
    def span(self) -> Span:
        return self.offer.span

    @property
    def speed(self) -> Speed:
        """What a layer takes for a token, as sessions found lately or else the probe."""
        load, layers = self.service.load, len(self.span)
        return Speed((load.decode_s or 0.0) / layers, (load.prefill_s or 0.0) / layers).or_else(self.probed)

    async def probe(self) -> None:
        """Run a few tokens through it, over the wire; fewer if its speed was measured lately.

        Raises:
            NodeError: if no right answer comes back.
        """
        shop, path = self.shop, self.shop.config.speed_file
        speeds = None if path is None else SpeedFile(path)
        known = None if speeds is None else speeds.recall(shop.setup)
        room = min(self.service.sessions.total_tokens, shop.config.limits.max_step_tokens)
        self.probed = await probe(shop.node, self.offer, known, room)
        self.service.tested()
        if speeds is not None and known is None:
            speeds.remember(shop.setup, self.probed)

    async def drain(self, within_s: float) -> None:
        """Take no new sessions; let the others go to other peers, or end, for so long."""
        self.service.drain()
        await self.service.emptied(within_s)

    def end(self) -> Layers:
        """Close the door, end what sessions are left, and give the layers up for the next stint."""
        self.shop.door.service = None
        self.service.stop()
        return self.offer.shard.release()
