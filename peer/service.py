"""A loaded shard behind the wire: sorts incoming messages, ends sessions of clients that left, counts for records."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from swarm.core.errors import PeerBusy, RequestError
from swarm.core.log_fields import session_fields
from swarm.peer.control import Control
from swarm.peer.crew import Crew
from swarm.peer.departure import tell_client
from swarm.peer.executor import Executor
from swarm.peer.idle_sweep import sweep_idle
from swarm.peer.link_watch import LinkWatch
from swarm.peer.offer import Offer
from swarm.peer.sessions import SessionTable
from swarm.peer.stepping import Stepping
from swarm.peer.tally import Tally
from swarm.peer.transfer import Receiver
from swarm.peer.worker import Finished, Worker
from swarm.wire.control_messages import Leaving, Request
from swarm.wire.dialer import Dialer
from swarm.wire.link import Link
from swarm.wire.message import Message
from swarm.wire.step_messages import StatePart, StepFailed, StepMessage

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Load:
    """What a record says about how busy a peer is."""

    sessions: int
    free_tokens: int
    total_tokens: int
    queue_s: float
    decode_s: float | None
    prefill_s: float | None
    computed_tokens: int


class Service:
    """Serves one shard to clients and neighbours. What it starts runs in `tasks` and ends with `stop`.

    `clock` is the worker's.

    Attributes:
        tally: what is done is counted here.
    """

    def __init__(
        self,
        node: Dialer,
        offer: Offer,
        sessions: SessionTable,
        executor: Executor,
        tasks: asyncio.TaskGroup,
        tally: Tally | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.tally = tally = tally or Tally()
        self._computed_before = tally.computed_tokens
        self.sessions = sessions
        self._crew = Crew(tasks)
        together = offer.shard.batching != "one by one"
        batch_tokens = sessions.limits.batch_tokens
        self._worker = Worker(
            executor, self._deliver, batch_tokens, together=together, tally=tally, clock=clock
        )
        self._stepping = Stepping(node.peer_id, offer, sessions, self._worker, self._crew, tally)
        self._watch = LinkWatch(self._link_ended)
        self._receiver = Receiver(offer, sessions, self._worker)
        self._control = Control(node, offer, self._worker, self._stepping, self._watch, self._receiver, tally)
        self._crew.start(sweep_idle(sessions, self._stepping))

    def _deliver(self, finished: Finished) -> None:
        self._stepping.deliver(finished)

    @property
    def load(self) -> Load:
        return Load(
            sessions=len(self.sessions),
            free_tokens=self.sessions.free_tokens,
            total_tokens=self.sessions.total_tokens,
            queue_s=self._worker.queue_s,
            decode_s=self._worker.decode_lately_s,
            prefill_s=self._worker.prefill_lately_s,
            computed_tokens=self._worker.computed_tokens,
        )

    def tested(self) -> None:
        """What ran so far was the peer's own test, and no measure of its speed."""
        self._worker.forget_rates()
        self.tally.probed_tokens += self.tally.computed_tokens - self._computed_before

    @property
    def waiting(self) -> int:
        """Steps that wait for the device."""
        return self._worker.waiting

    @property
    def draining(self) -> bool:
        """Whether no new sessions are taken."""
        return self._control.draining

    def handle(self, link: Link, message: Message, payload: memoryview) -> Awaitable[None] | None:
        """One message from a link; see `swarm.wire.link.Handler`."""
        match message:
            case StepMessage():
                return self._stepping.receive(link, message, payload)
            case StatePart():
                return self._receiver.receive(link, message, payload)
            case Request():
                self._watch.add(link)
                self._crew.start(self._control.answer(link, message))
            case StepFailed():
                self._stepping.failed_at_next(link, message)
            case _:
                raise RequestError(f"a peer expects no {type(message).__name__}")
        return None

    def _link_ended(self, link: Link) -> None:
        for session in self.sessions.of_client(link):
            logger.info("the client of a session left", extra=session_fields(session.id))
            self._stepping.end(session)
        self.sessions.client_left()
        self._stepping.next_left(link)

    def drain(self) -> None:
        """Take no new sessions from now on, and ask the clients of the others to move them."""
        self._control.draining = True
        for session in self.sessions:
            self._crew.start(tell_client(session.client, Leaving(session=session.id)))

    async def emptied(self, within_s: float) -> bool:
        """Wait until no session is left; False if the time ran out."""
        try:
            async with asyncio.timeout(within_s):
                await self.sessions.wait_empty()
        except TimeoutError:
            return False
        return True

    def stop(self) -> None:
        """End all sessions and whatever is under way; prove that the cache's books are right."""
        for session in self.sessions:
            self._stepping.end(session)
        self._crew.stop()
        self.sessions.prefixes.clear()
        self.sessions.check()


class Doorkeeper:
    """The node's handler before and after the shard is loaded."""

    def __init__(self) -> None:
        self.service: Service | None = None

    def handle(self, link: Link, message: Message, payload: memoryview) -> Awaitable[None] | None:
        if self.service is None:
            raise PeerBusy("this peer is still loading its layers", retry_after_s=2.0)
        return self.service.handle(link, message, payload)
