"""A peer of a lab: a real service on a device that a test can hold still, and what it announces."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from swarm.core.config import CODINGS
from swarm.peer.executor import Done, Executor
from swarm.peer.kv_pool import KVPool
from swarm.peer.offer import Offer
from swarm.peer.service import Service
from swarm.routing.announcement import encode
from swarm.routing.records import PeerRecord, PeerState
from tests.memory_links import MemoryNode


class InlineExecutor(Executor):
    """The device without a thread: work is done in the event loop, one piece after another.

    While `held` is True, work waits; `release` does it. Each piece of work takes `slow_s` of the loop's time.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.held = False
        self.slow_s = 0.0
        self._events = loop
        self._waiting: list[tuple[Callable[[], object], Done]] = []

    def submit(self, function: Callable[[], object], done: Done) -> None:
        self._waiting.append((function, done))
        if not self.held:
            self._events.call_later(self.slow_s, self._next)

    @property
    def is_idle(self) -> bool:
        return not self.held and not self._waiting and not self.slow_s

    def release(self) -> None:
        self.held = False
        for _ in self._waiting:
            self._events.call_soon(self._next)

    def stop(self) -> None:
        self._waiting.clear()

    def _next(self) -> None:
        if not self._waiting:
            return
        function, done = self._waiting.pop(0)
        result, error = None, None
        try:
            result = function()
        except BaseException as raised:
            error = raised
        done(result, error)


@dataclass
class LabPeer:
    """A service on a node of the meadow."""

    node: MemoryNode
    service: Service
    executor: InlineExecutor
    pool: KVPool
    offer: Offer
    cost: float
    visible: bool = True
    codings: tuple[str, ...] = CODINGS

    def record(self, now: float) -> PeerRecord:
        load, offer = self.service.load, self.offer
        return PeerRecord(
            protocol=1,
            peer_id=self.node.peer_id,
            model_uid=offer.model_uid,
            layers=offer.layers,
            start=offer.span.start,
            end=offer.span.end,
            state=PeerState.ONLINE,
            precision=offer.precision,
            codings=self.codings,
            seconds_per_layer=self.cost,
            free_tokens=load.free_tokens,
            total_tokens=load.total_tokens,
            issued_at=now,
            expires_at=now + 30.0,
        )


class MemoryDirectory:
    """A `RecordSource`: what all visible peers would announce now."""

    def __init__(self, peers: dict[str, LabPeer]) -> None:
        self._peers = peers

    def now(self) -> float:
        return asyncio.get_event_loop().time()

    async def fetch(self, keys: Sequence[str], /) -> list[bytes]:
        return [encode(peer.record(self.now())) for peer in self._peers.values() if peer.visible]
