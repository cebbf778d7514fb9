"""The way of a step through this peer: in from a link, through the device, out to the next hop or the client."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from torch import Tensor

from swarm.core.errors import PeerError, PeerTimeout, RequestError, SessionLost, SwarmError
from swarm.peer.crew import Crew
from swarm.peer.offer import Offer
from swarm.peer.sessions import HopSession, SessionTable
from swarm.peer.step_check import check_step
from swarm.peer.worker import Finished, Worker
from swarm.shards.step import Step, StepTensors
from swarm.wire.failures import kind_of
from swarm.wire.link import Link
from swarm.wire.messages import (
    FailureKind,
    HopTiming,
    Message,
    Output,
    Replayed,
    ReplayInfo,
    StepFailed,
    StepMessage,
)
from swarm.wire.tensor_size import tensor_nbytes
from swarm.wire.tensors import Packed, pack, unpack

logger = logging.getLogger(__name__)
MOST_TRACED = 512  # as many as a message may carry
SEND_S = 30.0
SLOWEST_BYTES_PER_S = 100_000


@dataclass(frozen=True, slots=True)
class Onward:
    """What a step message says besides its tensors and its session; see `StepMessage`."""

    number: int
    start: int
    select_rows: list[int] | None = None
    keep_last: int = 0
    replay: ReplayInfo | None = None
    trace: list[HopTiming] = field(default_factory=list)


class Stepping:
    """Takes steps from links, queues them, and sends their outputs on; `crew` runs the sends that are under way."""

    def __init__(self, own_id: str, offer: Offer, table: SessionTable, worker: Worker, crew: Crew) -> None:
        self._own_id = own_id
        self._offer = offer
        self.table = table
        self._worker = worker
        self._crew = crew

    async def receive(self, link: Link, message: StepMessage, payload: memoryview) -> None:
        """Check and queue one step; a step that cannot be taken is answered with `StepFailed` on the same link.

        Waits, and with it the link, while too much of this session is inside.
        """
        try:
            session = self.table.fed_by(link.peer_id, message.session)
            tensors = check_step(message, unpack(message.tensors, payload), self._offer, self.table.limits)
            reach = range(message.start, message.start + tensors.tokens)
            self.table.grow(session, message.number, tensors.rows, reach)
            await session.inside.acquire(payload.nbytes)
            if session.closed:
                raise SessionLost("the session was closed")
        except SwarmError as error:
            await _send(link, _failed(message.session, message.number, error))
            return
        session.last_used_s = asyncio.get_running_loop().time()
        rows = None if message.select_rows is None else tuple(message.select_rows)
        self._worker.submit(session, message, Step(message.number, message.start, tensors, rows))

    def failed_at_next(self, link: Link, failure: StepFailed) -> None:
        """The next hop could not take a step of ours: tell the client, unless it is being told of another one."""
        for session in self.table:
            hop = session.next
            if hop is None or hop.session != failure.session or hop.peer != link.peer_id or session.reporting:
                continue
            report = failure.model_copy(update={"session": session.id, "peer": failure.peer or link.peer_id})
            self._crew.start(self._report(session, report))

    def next_left(self, link: Link) -> None:
        """The link to a next hop has ended, perhaps with a step on it: its clients need not wait for a deadline."""
        for session in self.table:
            hop = session.next
            if hop is not None and session.next_link is link:
                error = PeerError(f"the link to the next hop ended: {link.close_reason}")
                report = _failed(
                    session.id, max(session.shard.last_step, 0), error, "next_unreachable", hop.peer
                )
                self._crew.start(self._report(session, report))

    async def _report(self, session: HopSession, report: StepFailed) -> None:
        session.reporting = True
        try:
            await _send(session.client, report)
        finally:
            session.reporting = False

    def deliver(self, finished: Finished) -> None:
        """Called by the worker for every finished step."""
        self._crew.start(self._deliver(finished))

    async def _deliver(self, finished: Finished) -> None:
        session, message = finished.session, finished.message
        try:
            async with session.leaving:
                if not session.closed:
                    session.last_used_s = asyncio.get_running_loop().time()
                    await self._pass_on(finished)
        except SwarmError as error:  # an output that is too large for a frame
            await _send(session.client, _failed(session.id, message.number, error))
        finally:
            session.inside.release(sum(map(tensor_nbytes, message.tensors)))

    async def _pass_on(self, finished: Finished) -> None:
        session, message, output = finished.session, finished.message, finished.output
        if output is None:
            await self._fail(finished)
        elif message.replay is not None and session.shard.span.end >= message.replay.until:
            if message.replay.last:
                shard = session.shard
                report = Replayed(session=session.id, length=shard.length, step=shard.last_step)
                await _send(session.client, report)
        else:
            await self._send_output(finished, output)

    async def _fail(self, finished: Finished) -> None:
        """Report a failed step; a session that failed inside of the layers cannot go on, and its memory is needed."""
        session, error = finished.session, finished.error
        assert error is not None
        if not isinstance(error, RequestError):
            self.end(session)
        await _send(session.client, _failed(session.id, finished.message.number, error))

    def end(self, session: HopSession) -> None:
        """End a session: its queued steps, its cache and its pages go."""
        self.table.remove(session)
        self._worker.forget(session)

    async def _send_output(self, finished: Finished, output: StepTensors) -> None:
        session, message = finished.session, finished.message
        began_s = time.perf_counter()
        packed = pack(self._for_client(session, message, output) if session.next is None else output.named())
        timing = HopTiming(
            peer=self._own_id,
            queue_s=finished.queue_s,
            compute_s=finished.compute_s,
            serialise_s=time.perf_counter() - began_s,
        )
        trace = [*message.trace, timing][-MOST_TRACED:]
        if session.next is None:
            metas, payload = packed
            answer = Output(
                session=session.id, number=message.number, start=message.start, trace=trace, tensors=metas
            )
            await _send(session.client, answer, payload)
        else:
            onward = Onward(
                message.number, message.start, message.select_rows, message.keep_last, message.replay, trace
            )
            await self.send_step(session, packed, onward)

    def _for_client(
        self, session: HopSession, message: StepMessage, output: StepTensors
    ) -> dict[str, Tensor]:
        """After the last layer only the asked-for positions of the hidden state; before it, all a next hop needs."""
        if session.shard.span.end < self._offer.layers:
            return dict(output.named())
        keep = message.keep_last or output.tokens
        return {"hidden": output.hidden[:, -keep:]}

    async def send_step(self, session: HopSession, packed: Packed, onward: Onward) -> None:
        """Send a packed output to the next hop; a broken link is reported to the client."""
        hop, link = session.next, session.next_link
        if hop is None or link is None:
            raise RequestError("there is no next hop to send to: relink first")
        metas, payload = packed
        step = StepMessage(
            session=hop.session,
            number=onward.number,
            start=onward.start,
            select_rows=onward.select_rows,
            keep_last=onward.keep_last,
            replay=onward.replay,
            trace=onward.trace,
            tensors=metas,
        )
        try:
            await _send_in_time(link, step, payload)
        except PeerError as error:
            if session.next is hop:  # not relinked meanwhile
                report = _failed(session.id, onward.number, error, "next_unreachable", hop.peer)
                await _send(session.client, report)


def _failed(
    session: bytes, number: int, error: SwarmError, kind: FailureKind | None = None, peer: str | None = None
) -> StepFailed:
    return StepFailed(
        session=session, number=number, kind=kind or kind_of(error), message=str(error)[:2000], peer=peer
    )


async def _send(
    link: Link, message: Output | Replayed | StepFailed, payload: Sequence[memoryview] = ()
) -> None:
    """Send to a client; a client that is gone needs no answer, its sessions end with its link."""
    try:
        await _send_in_time(link, message, payload)
    except PeerError as error:
        logger.debug("client %s is gone: %s", link.peer_id, error)


async def _send_in_time(link: Link, message: Message, payload: Sequence[memoryview]) -> None:
    """Send, but close a link whose other end does not read: it holds memory here, and others wait behind it.

    Raises:
        PeerError: if the link is closed, or was closed for that.
    """
    allowed_s = SEND_S + sum(part.nbytes for part in payload) / SLOWEST_BYTES_PER_S
    try:
        async with asyncio.timeout(allowed_s):
            await link.send(message, payload)
    except TimeoutError as error:
        await link.close(f"nothing was read for {allowed_s:.0f} s")
        raise PeerTimeout(f"peer {link.peer_id} does not read what it is sent", link.peer_id) from error
