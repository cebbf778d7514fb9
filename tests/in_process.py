"""A whole swarm in one thread and in virtual time: real services and real client sessions over links in memory.

    with Lab("llama") as lab:
        lab.serve("A", 0, 3)
        lab.serve("B", 3, 6)
        assert lab.generate(...) == lab.local(...)

Peers that cost less (`cost`) are chosen first, so that a test knows its chain.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self, TypeVar

import torch
from torch import Tensor

from swarm.client.chain_session import ChainSession
from swarm.client.deadline import StepDeadline
from swarm.client.inbox import Inbox
from swarm.client.navigator import Navigator
from swarm.client.shared import CHUNK_BYTES, LoadedModel, Shared
from swarm.client.stats import ClientStats
from swarm.core.config import ClientConfig, PeerLimits
from swarm.core.span import Span
from swarm.peer.kv_pool import KVPool
from swarm.peer.offer import Offer
from swarm.peer.service import Service
from swarm.peer.sessions import SessionTable
from swarm.shards.causal import load_client_model
from swarm.shards.remote import RemoteSession
from swarm.shards.shard import Shard
from swarm.shards.step import Step
from tests.lab_peer import InlineExecutor, LabPeer, MemoryDirectory
from tests.memory_links import Meadow, MemoryNode
from tests.shard_lab import CPU, source_of, twins_of
from tests.virtual_time import VirtualLoop
from tests.zoo import LAYERS

T = TypeVar("T")


class ClientNode(MemoryNode):
    """A node of the meadow that reads announcements."""

    directory: MemoryDirectory


@functools.cache
def shard_of(model_type: str, start: int, end: int) -> Shard:
    """One shard for all peers that serve these layers: a service only reads it."""
    return Shard.load(source_of(model_type), Span(start, end), dtype=torch.float32, device=CPU)


@functools.cache
def client_model_of(model_type: str) -> tuple[Any, _Switch]:
    """The client's model, whose sessions are opened by whichever lab is open."""
    switch = _Switch()
    return load_client_model(source_of(model_type), switch, dtype=torch.float32), switch


class _Switch:
    """A `RemoteRunner` that hands on to the lab of the moment."""

    lab: Lab

    def open(self, *, max_tokens: int, rollback: bool) -> RemoteSession:
        return self.lab.open(max_tokens=max_tokens, rollback=rollback)


@dataclass
class LabSession:
    """A `RemoteSession` whose steps turn the lab's loop. `before_step[n]` happens before the n-th call."""

    lab: Lab
    chain: ChainSession

    def step(self, step: Step, *, keep_last: int) -> Tensor:
        self.lab.calls += 1
        action = self.lab.before_call.get(self.lab.calls)
        if action is not None:
            self.lab.do(action())
        return self.lab.do(self.chain.step(step, keep_last))

    def close(self) -> None:
        if not self.lab.closed:
            self.lab.do(self.chain.close())


@dataclass
class Options:
    """What a lab's client is like; `draw` decides between chains that cost nearly the same."""

    config: ClientConfig = field(
        default_factory=lambda: ClientConfig(step_timeout_s=20.0, open_timeout_s=10.0)
    )
    chunk_bytes: int = CHUNK_BYTES
    draw: Callable[[], float] = lambda: 0.0


class Lab:
    """Peers of one tiny model, and a client."""

    def __init__(self, model_type: str = "llama", options: Options | None = None) -> None:
        self.model_type = model_type
        self.options = options or Options()
        self.loop = VirtualLoop()
        self.peers: dict[str, LabPeer] = {}
        self.sessions: list[LabSession] = []
        self.calls = 0
        self.before_call: dict[int, Callable[[], Coroutine[Any, Any, None]]] = {}
        self.closed = False
        self.stats = ClientStats()
        self.unhandled: list[str] = []

    def __enter__(self) -> Self:
        self.loop.set_exception_handler(lambda loop, context: self.unhandled.append(str(context)))
        self.tasks = asyncio.TaskGroup()
        self._owner = self.loop.create_task(self._own())
        self.do(asyncio.sleep(0))
        self.model, switch = client_model_of(self.model_type)
        switch.lab = self
        return self

    async def _own(self) -> None:
        self._ended = asyncio.Event()
        async with self.tasks:
            self.meadow = Meadow(self.tasks)
            self.inbox = Inbox(self.options.config.coding)
            self.client = ClientNode(self.meadow, "cLient", self.inbox.handle)
            self.meadow.nodes["cLient"] = self.client
            self.client.directory = MemoryDirectory(self.peers)
            source = source_of(self.model_type)
            navigator = Navigator(self.client, source.uid, self.options.config, self.options.draw)
            self.shared = Shared(
                node=self.client,
                inbox=self.inbox,
                navigator=navigator,
                config=self.options.config,
                deadline=StepDeadline(self.options.config.step_timeout_s),
                layers=LAYERS,
                model_uid=source.uid,
                stats=self.stats,
                chunk_bytes=self.options.chunk_bytes,
            )
            await self._ended.wait()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.closed = True
        try:
            self.do(self._stop())
        finally:
            self.do(_finish_others())
            self.loop.close()
        assert kind is not None or not self.unhandled, self.unhandled

    async def _stop(self) -> None:
        assert not self._owner.done(), "a task took everything down"
        await self.meadow.close()
        await asyncio.sleep(0)
        for peer in self.peers.values():
            peer.executor.release()
            peer.service.stop()
            assert peer.pool.free_tokens == peer.pool.total_tokens
        self._ended.set()
        await self._owner

    # acting -------------------------------------------------------------------------------------------------------

    def do(self, work: Coroutine[Any, Any, T] | Awaitable[T]) -> T:
        """The result of `work` in the lab's loop."""
        return self.loop.run_until_complete(work)

    def pass_time(self, seconds: float) -> None:
        """Let virtual time go by, with whatever happens meanwhile; then everything is announced and read again."""
        self.do(asyncio.sleep(seconds))
        self.do(self.shared.navigator.refresh())

    def settle(self) -> None:
        """Let everything happen that can happen without time passing."""
        self.do(_turns(50))

    def serve(
        self,
        name: str,
        start: int,
        end: int,
        *,
        cost: float = 0.001,
        cache_tokens: int = 4096,
        limits: PeerLimits = PeerLimits(),  # noqa: B008 - frozen
    ) -> LabPeer:
        """A peer for layers `[start, end)`."""
        peer = self.do(self._serve(name, Span(start, end), cost, cache_tokens, limits))
        self.do(self.shared.navigator.refresh())
        return peer

    async def _serve(
        self, name: str, span: Span, cost: float, cache_tokens: int, limits: PeerLimits
    ) -> LabPeer:
        source = source_of(self.model_type)
        offer = Offer(
            shard_of(self.model_type, span.start, span.end), source.uid, source.name, "float32", LAYERS
        )
        pool, executor = KVPool(cache_tokens), InlineExecutor(self.loop)
        table = SessionTable(pool, limits)
        node = self.meadow.add(name, _nobody)
        service = Service(node, offer, table, executor, self.tasks, clock=self.loop.time)
        node.handler = service.handle
        peer = self.peers[name] = LabPeer(node, service, executor, pool, offer, cost)
        return peer

    def open(self, *, max_tokens: int = 64, rollback: bool = True) -> LabSession:
        """A session of the lab's client."""
        traits = self.model.__dict__["remote_layers"].__dict__["traits"]
        chain = ChainSession(
            self.shared, LoadedModel(traits, "float32"), max_tokens=max_tokens, rollback=rollback
        )
        session = LabSession(self, chain)
        self.sessions.append(session)
        return session

    async def kill(self, *names: str) -> None:
        """These peers are gone; their announcements stay, as on a real DHT."""
        for name in names:
            await self.meadow.kill(name)

    # looking ------------------------------------------------------------------------------------------------------

    def generate(self, **arguments: Any) -> list[list[int]]:
        """Tokens that the swarm generates; ends the session afterwards."""
        tokens = _generate(self.model, arguments)
        for session in self.sessions:
            session.close()
        self.settle()
        return tokens

    def local(self, **arguments: Any) -> list[list[int]]:
        """Tokens that the local model generates."""
        return _generate(twins_of(self.model_type).local, arguments)

    def check_exact(self, **arguments: Any) -> None:
        """Swarm and local model give the same tokens, and nothing stays reserved at peers that live."""
        assert self.generate(**arguments) == self.local(**arguments)
        for peer in self.peers.values():
            if not peer.node.dead:
                assert len(peer.service.sessions) == 0, f"{peer.node.peer_id} still holds a session"
                assert peer.service.sessions.free_tokens == peer.pool.total_tokens
                peer.pool.check()

    @property
    def chain(self) -> list[str]:
        """Peers of the newest session's chain."""
        return [hop.peer_id for hop in self.sessions[-1].chain.hops]


def serve_twice(lab: Lab) -> None:
    """Two peers for each of three spans; capitals are chosen first."""
    for name, start, end in (("A", 0, 2), ("B", 2, 4), ("C", 4, 6)):
        lab.serve(name, start, end)
        lab.serve(name.lower(), start, end, cost=0.1)


def _generate(model: Any, arguments: dict[str, Any]) -> list[list[int]]:
    torch.manual_seed(4)
    tokens: list[list[int]] = model.generate(
        **({"max_new_tokens": 10, "do_sample": False} | arguments)
    ).tolist()
    return tokens


async def _nobody(link: Any, message: Any, payload: Any) -> None:
    """Handles what comes before a service is there."""


async def _finish_others() -> None:
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)


async def _turns(count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(0)
