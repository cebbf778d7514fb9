"""A loaded shard behind the wire: sorts incoming messages, ends sessions of clients that left, counts for records."""

from __future__ import annotations

import asyncio
import logging
import weakref
from collections.abc import Callable
from dataclasses import dataclass

from swarm.core.config import PeerLimits
from swarm.core.errors import PeerBusy, RequestError
from swarm.peer.control import Control, sweep_idle
from swarm.peer.executor import Executor
from swarm.peer.kv_pool import KVPool
from swarm.peer.offer import Offer
from swarm.peer.sessions import SessionTable
from swarm.peer.stepping import Stepping
from swarm.peer.worker import Finished, Worker
from swarm.wire.link import Link
from swarm.wire.messages import Message, Request, StepFailed, StepMessage
from swarm.wire.node import Node

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Load:
    """What a record says about how busy a peer is."""

    sessions: int
    free_tokens: int
    total_tokens: int
    queue_s: float
    decode_s: float | None
    computed_tokens: int


class Service:
    """Serves one shard to clients and neighbours. Runs in `tasks`, which owns everything it starts."""

    def __init__(
        self,
        node: Node,
        offer: Offer,
        pool: KVPool,
        limits: PeerLimits,
        tasks: asyncio.TaskGroup,
        changed: Callable[[], None],
    ) -> None:
        self._tasks = tasks
        self._pool = pool
        self._limits = limits
        self._executor = Executor()
        self._worker = Worker(self._executor, self._deliver)
        self.sessions = SessionTable(pool, limits, changed)
        self._stepping = Stepping(node.peer_id, offer, self.sessions, self._worker, limits, tasks)
        self._control = Control(node, offer, self.sessions, self._worker, self._stepping)
        self._watched: weakref.WeakSet[Link] = weakref.WeakSet()
        self._sweeper = tasks.create_task(sweep_idle(self.sessions, self._control, limits.idle_session_s))

    def _deliver(self, finished: Finished) -> None:
        self._stepping.deliver(finished)

    @property
    def load(self) -> Load:
        return Load(
            sessions=len(self.sessions),
            free_tokens=self._pool.free_tokens,
            total_tokens=self._pool.total_tokens,
            queue_s=self._worker.queue_s,
            decode_s=self._worker.decode_s,
            computed_tokens=self._worker.computed_tokens,
        )

    async def handle(self, link: Link, message: Message, payload: memoryview) -> None:
        """One message from a link."""
        match message:
            case StepMessage():
                await self._stepping.receive(link, message, payload)
            case Request():
                self._watch(link)
                self._tasks.create_task(self._control.answer(link, message))
            case StepFailed():
                await self._stepping.failed_at_next(link, message)
            case _:
                raise RequestError(f"a peer expects no {type(message).__name__}")

    def _watch(self, link: Link) -> None:
        if link not in self._watched:
            self._watched.add(link)
            link.on_close(self._client_left)

    def _client_left(self, link: Link) -> None:
        for session in self.sessions.of_client(link):
            logger.info("session %s ended: its client left", session.id.hex()[:8])
            self._control.end(session)

    def drain(self) -> None:
        """Take no new sessions from now on."""
        self._control.draining = True

    async def emptied(self, within_s: float) -> bool:
        """Wait until no session is left; False if the time ran out."""
        try:
            async with asyncio.timeout(within_s):
                await self.sessions.wait_empty()
        except TimeoutError:
            return False
        return True

    def stop(self) -> None:
        """End all sessions and the device thread, and prove that the cache's books are right."""
        self._sweeper.cancel()
        for session in self.sessions:
            self._control.end(session)
        self._pool.check()
        self._executor.stop()


class Doorkeeper:
    """The node's handler before and after the shard is loaded."""

    def __init__(self) -> None:
        self.service: Service | None = None

    async def handle(self, link: Link, message: Message, payload: memoryview) -> None:
        if self.service is None:
            raise PeerBusy("this peer is still loading its layers", retry_after_s=2.0)
        await self.service.handle(link, message, payload)
