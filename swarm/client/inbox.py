"""Where answers of hops meet the sessions that wait for them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING
from weakref import WeakValueDictionary

from swarm.client.hop import RemoteHop
from swarm.core.config import Coding
from swarm.core.errors import PeerIncompatible, PeerUnreachable, RequestError, SwarmError
from swarm.wire.control_messages import Leaving
from swarm.wire.failures import error_of
from swarm.wire.link import Link
from swarm.wire.message import Message
from swarm.wire.step_messages import HopTiming, Output, Replayed, StepFailed
from swarm.wire.tensors import unpack

if TYPE_CHECKING:
    import torch

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Answer:
    """An output that reached the client: tensors by name, and what every hop spent on it."""

    tensors: dict[str, torch.Tensor]
    trace: tuple[HopTiming, ...]


@dataclass(slots=True, eq=False)
class Expectation:
    """One answer that is waited for: from the session `source`, for the piece of step `number` that begins at `start`
    (both None: for the end of a replay).

    It fails as soon as any of `hops` fails or loses its link. `late` makes it fail with a TimeoutError, after which
    `renew` waits on.
    """

    source: RemoteHop
    number: int | None
    start: int | None
    hops: tuple[RemoteHop, ...]
    future: asyncio.Future[Answer | Replayed]

    _overdue: bool = False
    _missed: Answer | Replayed | SwarmError | None = None

    def fail(self, error: SwarmError) -> None:
        if not self.future.done():
            self.future.set_exception(error)
        elif self._overdue:
            self._missed = error

    def settle(self, answer: Answer | Replayed) -> None:
        if not self.future.done():
            self.future.set_result(answer)
        elif self._overdue:
            self._missed = answer

    def late(self) -> None:
        """What was allowed has passed."""
        if not self.future.done():
            self._overdue = True
            self.future.set_exception(TimeoutError())

    def renew(self) -> None:
        """Wait on; what came meanwhile counts."""
        self.future = asyncio.get_running_loop().create_future()
        missed, self._missed, self._overdue = self._missed, None, False
        if isinstance(missed, SwarmError):
            self.fail(missed)
        elif missed is not None:
            self.settle(missed)


class Inbox:
    """Hands each answer to the expectation it fulfils; answers nobody waits for (any more) are dropped.

    Args:
        coding: in which hops were asked to send.
    """

    def __init__(self, coding: Coding | None = None) -> None:
        self._coding = coding
        self._expected: dict[tuple[bytes, int | None], Expectation] = {}
        self._watched: set[Link] = set()
        self._hops: WeakValueDictionary[bytes, RemoteHop] = WeakValueDictionary()

    def expect(
        self, source: RemoteHop, number: int | None, hops: Iterable[RemoteHop], start: int | None = None
    ) -> Expectation:
        """Start to wait. At most one answer per source session and start is waited for; end with `forget`."""
        assert (source.session, start) not in self._expected
        future: asyncio.Future[Answer | Replayed] = asyncio.get_running_loop().create_future()
        expectation = Expectation(source, number, start, tuple(hops), future)
        self._expected[source.session, start] = expectation
        for hop in expectation.hops:
            self._watch(hop.link)
            if hop.link.closed:
                expectation.fail(_gone(hop.link))
        return expectation

    def forget(self, expectation: Expectation) -> None:
        """Wait no longer."""
        self._expected.pop((expectation.source.session, expectation.start), None)
        if expectation.future.done() and not expectation.future.cancelled():
            expectation.future.exception()  # seen, so that asyncio does not report it

    def handle(self, link: Link, message: Message, payload: memoryview) -> None:
        """The node's handler."""
        match message:
            case Output() | Replayed():
                self._answered(link, message, payload)
            case StepFailed():
                self._failed(link, message)
            case Leaving():
                self._leaves(link, message)
            case _:
                raise RequestError(f"a client expects no {type(message).__name__}")

    def introduce(self, hop: RemoteHop) -> None:
        """Let this hop hear when its peer wants to leave, for as long as somebody else holds it."""
        self._hops[hop.session] = hop

    def _leaves(self, link: Link, message: Leaving) -> None:
        hop = self._hops.get(message.session)
        if hop is not None and hop.peer_id == link.peer_id:
            hop.leaving = True
            if hop.on_leaving is not None:
                hop.on_leaving()

    def _answered(self, link: Link, message: Output | Replayed, payload: memoryview) -> None:
        start = message.start if isinstance(message, Output) else None
        expectation = self._expected.get((message.session, start))
        if expectation is None or expectation.source.link.peer_id != link.peer_id:
            return
        if isinstance(message, Replayed):
            expectation.settle(message)
        elif expectation.number == message.number:
            try:
                tensors = unpack(message.tensors, payload, coding=self._coding)
                expectation.settle(Answer(tensors, tuple(message.trace)))
            except PeerIncompatible as error:
                expectation.fail(PeerIncompatible(str(error), link.peer_id))

    def _failed(self, link: Link, message: StepFailed) -> None:
        for expectation in list(self._expected.values()):
            for hop in expectation.hops:
                if hop.session == message.session and hop.link.peer_id == link.peer_id:
                    self._blame(expectation, hop, message)

    def _blame(self, expectation: Expectation, hop: RemoteHop, message: StepFailed) -> None:
        """A failure names the hop that noticed it, and perhaps a neighbour that is the cause."""
        if expectation.number is not None and message.number != expectation.number:
            return
        if message.kind == "behind":
            return  # a piece from before a repair overtook those that are sent again: they are on their way
        if message.peer is None:
            expectation.fail(error_of(message.kind, message.message, hop.peer_id))
        elif any(other.peer_id == message.peer for other in expectation.hops):
            expectation.fail(error_of(message.kind, message.message, message.peer))

    def _watch(self, link: Link) -> None:
        if link not in self._watched:
            self._watched.add(link)
            link.on_close(self._link_closed)

    def _link_closed(self, link: Link) -> None:
        self._watched.discard(link)
        for expectation in list(self._expected.values()):
            if any(hop.link is link for hop in expectation.hops):
                expectation.fail(_gone(link))


def _gone(link: Link) -> PeerUnreachable:
    return PeerUnreachable(f"the link to {link.peer_id} ended: {link.close_reason}", link.peer_id)
