"""The way of a step through this peer: in from a link, through the device, out to the next hop or the client.

The usual step waits for nothing but the device: it is queued in the callback that read it, and sent in the callback
that brings its output. Whatever has to wait goes on in a task of the crew.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable

from msgspec.structs import replace

from swarm.core.errors import PeerError, RequestError, SessionLost, SwarmError
from swarm.core.log_fields import session_fields
from swarm.peer.awaited import Awaited, awaited_after
from swarm.peer.crew import Crew
from swarm.peer.departure import (
    Departure,
    Onward,
    departure_of,
    failed,
    send_in_time,
    step_departure,
    tell_client,
)
from swarm.peer.hop_session import HopSession
from swarm.peer.offer import Offer
from swarm.peer.sessions import SessionTable
from swarm.peer.step_check import check_step
from swarm.peer.tally import Tally
from swarm.peer.worker import Finished, Worker
from swarm.shards.step import Step, StepTensors
from swarm.wire.failures import kind_of
from swarm.wire.link import Link
from swarm.wire.step_messages import Output, Replayed, StepFailed, StepMessage
from swarm.wire.tensor_size import decoded_nbytes
from swarm.wire.tensors import Packed, unpack

logger = logging.getLogger(__name__)


class Stepping:
    """Takes steps from links, queues them, and sends their outputs on; `crew` runs the sends that are under way."""

    def __init__(
        self, own_id: str, offer: Offer, table: SessionTable, worker: Worker, crew: Crew, tally: Tally
    ) -> None:
        self._own_id = own_id
        self._offer = offer
        self.table = table
        self._worker = worker
        self._crew = crew
        self._tally = tally

    # in -----------------------------------------------------------------------------------------------------------

    def receive(self, link: Link, message: StepMessage, payload: memoryview) -> Awaitable[None] | None:
        """Check and queue one step; a step that cannot be taken is answered with `StepFailed` on the same link.

        What it returns, if anything, has to be awaited before the link's next message: too much of this session is
        inside.
        """
        try:
            session = self.table.fed_by(link.peer_id, message.session)
            awaited = session.take_awaited(message)
            is_free = awaited is not None and self._worker.is_free_for(session)
            if awaited is not None and is_free and session.inside.try_acquire(payload.nbytes):
                self._run_awaited(session, message, awaited, payload)
                return None
            named = unpack(message.tensors, payload, coding=session.coding)
            tensors = check_step(message, named, self._offer, self.table.limits)
            reach = range(message.start, message.start + tensors.tokens)
            self.table.grow(session, message.number, tensors.rows, reach)
        except SwarmError as error:
            self._tally.failures[kind_of(error)] += 1
            return tell_client(link, failed(message.session, message.number, error))
        nbytes = decoded_nbytes(message.tensors) if session.coding else payload.nbytes
        if not session.inside.try_acquire(nbytes):
            return self._wait_for_room(session, message, tensors, link)
        self._queue(session, message, tensors)
        return None

    def _run_awaited(
        self, session: HopSession, message: StepMessage, awaited: Awaited, payload: memoryview
    ) -> None:
        awaited.room[:] = payload
        session.promised, session.newest = message.start + 1, message.number
        self._worker.run_next(session, message, awaited)

    async def _wait_for_room(
        self, session: HopSession, message: StepMessage, tensors: StepTensors, link: Link
    ) -> None:
        await session.inside.acquire(decoded_nbytes(message.tensors))
        if session.closed:
            error = SessionLost("the session was closed")
            await tell_client(link, failed(message.session, message.number, error))
        else:
            self._queue(session, message, tensors)

    def _queue(self, session: HopSession, message: StepMessage, tensors: StepTensors) -> None:
        session.last_used_s = asyncio.get_running_loop().time()
        rows = None if message.select_rows is None else tuple(message.select_rows)
        self._worker.submit(session, message, Step(message.number, message.start, tensors, rows))

    # failures of others -------------------------------------------------------------------------------------------

    def failed_at_next(self, link: Link, failure: StepFailed) -> None:
        """The next hop could not take a step of ours: tell the client, unless it is being told of another one."""
        for session in self.table:
            hop = session.next
            if hop is None or hop.session != failure.session or hop.peer != link.peer_id or session.reporting:
                continue
            report = replace(failure, session=session.id, peer=failure.peer or link.peer_id)
            self._crew.start(self._report(session, report))

    def next_left(self, link: Link) -> None:
        """The link to a next hop has ended, perhaps with a step on it: its clients need not wait for a deadline."""
        for session in self.table:
            hop = session.next
            if hop is not None and session.next_link is link:
                error = PeerError(f"the link to the next hop ended: {link.close_reason}")
                report = failed(
                    session.id, max(session.shard.last_step, 0), error, "next_unreachable", hop.peer
                )
                self._crew.start(self._report(session, report))

    async def _report(self, session: HopSession, report: StepFailed) -> None:
        session.reporting = True
        try:
            await tell_client(session.client, report)
        finally:
            session.reporting = False

    # out ----------------------------------------------------------------------------------------------------------

    def deliver(self, finished: Finished) -> None:
        """Called by the worker for every finished step."""
        if not self._leaves_at_once(finished):
            finished.session.departing += 1
            self._crew.start(self._deliver(finished))

    def _leaves_at_once(self, finished: Finished) -> bool:
        session, output = finished.session, finished.output
        is_usual = output is not None and finished.message.replay is None and not session.closed
        if not is_usual or not session.is_way_free:
            return False
        departure = self._departure(finished, output)
        if not departure.try_send():
            return False
        self._left(finished)
        leaving, offer = departure.message.tensors, self._offer
        session.awaited = awaited_after(finished.message, leaving, offer.shard, offer.position_rows)
        return True

    def _departure(self, finished: Finished, output: StepTensors | None) -> Departure:
        assert output is not None
        return departure_of(self._own_id, self._offer, finished, output)

    def _left(self, finished: Finished) -> None:
        finished.session.last_used_s = asyncio.get_running_loop().time()
        finished.session.inside.release(decoded_nbytes(finished.message.tensors))

    async def _deliver(self, finished: Finished) -> None:
        session, message = finished.session, finished.message
        try:
            async with session.leaving:
                if not session.closed:
                    await self._pass_on(finished)
        except SwarmError as error:  # an output that is too large for a frame
            await tell_client(session.client, failed(session.id, message.number, error))
        finally:
            session.departing -= 1
            self._left(finished)

    async def _pass_on(self, finished: Finished) -> None:
        session, message, output = finished.session, finished.message, finished.output
        if output is None:
            await self._fail(finished)
        elif message.replay is not None and session.shard.span.end >= message.replay.until:
            if message.replay.last:
                shard = session.shard
                report = Replayed(session=session.id, length=shard.length, step=shard.last_step)
                await tell_client(session.client, report)
        else:
            await self._send(session, self._departure(finished, output))

    async def _fail(self, finished: Finished) -> None:
        """Report a failed step; a session that failed inside of the layers cannot go on, and its memory is needed."""
        session, error = finished.session, finished.error
        assert error is not None
        self._tally.failures[kind_of(error)] += 1
        logger.info(
            "a step failed: %s", error, extra=session_fields(session.id, step=finished.message.number)
        )
        if not isinstance(error, RequestError):
            self.end(session)
        await tell_client(session.client, failed(session.id, finished.message.number, error))

    def end(self, session: HopSession) -> None:
        """End a session: its queued steps, its cache and its pages go."""
        self.table.remove(session)
        self._worker.forget(session)

    async def send_step(self, session: HopSession, packed: Packed, onward: Onward) -> None:
        """Send a packed output to the next hop; a broken link is reported to the client."""
        await self._send(session, step_departure(session, packed, onward, []))

    async def _send(self, session: HopSession, departure: Departure) -> None:
        link, message, hop = departure.link, departure.message, session.next
        if isinstance(message, Output):
            await tell_client(link, message, departure.payload)
            return
        try:
            await send_in_time(link, message, departure.payload)
        except PeerError as error:
            if hop is not None and session.next is hop:  # not relinked meanwhile
                report = failed(session.id, message.number, error, "next_unreachable", hop.peer)
                await tell_client(session.client, report)
