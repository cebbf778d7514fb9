"""Moving a session's state from peer to peer: sent by the one, taken in by the other."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable
from functools import partial

from swarm.core.errors import NextUnreachable, PeerBusy, PeerError, RequestError, SessionLost, SwarmError
from swarm.peer.arrival import Arrival
from swarm.peer.departure import SEND_S, send_in_time
from swarm.peer.hop_session import HopSession
from swarm.peer.offer import Offer
from swarm.peer.sessions import SessionTable
from swarm.peer.step_check import check_state
from swarm.peer.worker import Worker
from swarm.shards.session import ShardSession
from swarm.shards.session_state import Part, StateReader
from swarm.wire.control_messages import Done, StateEnd, Transfer
from swarm.wire.link import Link
from swarm.wire.step_messages import StatePart
from swarm.wire.tensor_size import tensors_nbytes
from swarm.wire.tensors import Packed, pack, unpack

logger = logging.getLogger(__name__)
PART_BYTES = 4 << 20


class Sender:
    """Sends the states of this peer's sessions; the device's thread reads them out part by part."""

    def __init__(self, worker: Worker, part_bytes: int = PART_BYTES) -> None:
        self._worker = worker
        self._part_bytes = part_bytes

    async def send(self, session: HopSession, link: Link, message: Transfer) -> Done:
        """Send what `session` is once everything queued for it has run, to a peer that has all of it afterwards.

        Raises:
            RequestError: if this model's caches cannot be moved.
            PeerBusy: if the session goes on meanwhile.
            NextUnreachable: if the other peer does not take it.
        """
        target, shard = message.to.session, session.shard
        reader, parts = await self._worker.ask(session, partial(_begin, shard, self._part_bytes))
        for part in parts:
            metas, payload = await self._worker.ask(session, partial(_read, reader, part))
            state = StatePart(session=target, layer=part.layer, start=part.start, tensors=metas)
            try:
                await send_in_time(link, state, payload)
            except PeerError as error:
                raise NextUnreachable(f"cannot send to {link.peer_id}: {error}") from error
            session.last_used_s = asyncio.get_running_loop().time()
        length, step = reader.length, reader.step
        end = StateEnd(request=0, session=target, length=length, step=step, masked=reader.is_masked)
        try:
            await link.request(end, timeout_s=SEND_S)
        except (PeerError, RequestError) as error:
            raise NextUnreachable(f"{link.peer_id} did not take the session: {error}") from error
        return Done(request=message.request, length=length, step=step)


def _begin(shard: ShardSession, part_bytes: int) -> tuple[StateReader, list[Part]]:
    reader = StateReader(shard, part_bytes)
    return reader, list(reader.parts())


def _read(reader: StateReader, part: Part) -> Packed:
    """Runs in the device's thread, where the session does not change meanwhile."""
    if not reader.is_current:
        raise PeerBusy("the session went on while it was handed over")
    return pack(reader.read(part))


class Receiver:
    """Takes the states that other peers bring to sessions of this peer."""

    def __init__(self, offer: Offer, table: SessionTable, worker: Worker) -> None:
        self._offer = offer
        self._table = table
        self._worker = worker

    def receive(self, link: Link, message: StatePart, payload: memoryview) -> Awaitable[None] | None:
        """Check and queue one part; what it returns, if anything, has to be awaited before the link's next message.

        Parts of strangers, or that come after a mistake, are dropped.
        """
        try:
            session, arrival = self._given_by(link.peer_id, message.session)
        except SessionLost as error:
            logger.debug("a part from %s was dropped: %s", link.peer_id, error)
            return None
        if arrival.error is not None:
            return None
        try:
            tensors = check_state(unpack(message.tensors, payload), self._offer, self._table.limits)
        except SwarmError as error:
            arrival.error = error
            return None
        session.last_used_s = asyncio.get_running_loop().time()
        size = tensors_nbytes(message.tensors)
        write = partial(arrival.writer.write, message.layer, message.start, tensors)
        if not arrival.waiting.try_acquire(size):
            return self._write_later(session, arrival, size, write)
        self._write(session, arrival, size, write)
        return None

    async def _write_later(
        self, session: HopSession, arrival: Arrival, size: int, write: partial[None]
    ) -> None:
        await arrival.waiting.acquire(size)
        self._write(session, arrival, size, write)

    def _write(self, session: HopSession, arrival: Arrival, size: int, write: partial[None]) -> None:
        def written(done: asyncio.Future[None]) -> None:
            arrival.waiting.release(size)
            if not done.cancelled() and isinstance(error := done.exception(), SwarmError):
                arrival.error = arrival.error or error

        if not session.closed:
            self._worker.ask(session, write).add_done_callback(written)

    async def finish(self, link: Link, message: StateEnd) -> Done:
        """All parts have come: the session goes on from there, and nothing more is taken.

        Raises:
            SessionLost: if this peer is not the one that may bring it.
            SwarmError: what was wrong with a part, or with all of them together.
        """
        session, arrival = self._given_by(link.peer_id, message.session)
        finish = partial(arrival.writer.finish, message.length, message.step, is_masked=message.masked)
        try:
            await self._worker.ask(session, partial(_finish, arrival, finish))
        finally:
            session.arrival = None
        session.promised, session.newest = message.length, message.step
        return Done(request=message.request, length=message.length, step=message.step)

    def _given_by(self, donor: str, session: bytes) -> tuple[HopSession, Arrival]:
        found = self._table.find(session)
        if found is None or found.arrival is None or found.arrival.donor != donor:
            raise SessionLost("there is no session here that waits for a state of yours")
        return found, found.arrival


def _finish(arrival: Arrival, finish: partial[None]) -> None:
    """Runs in the device's thread, after all parts."""
    if arrival.error is not None:
        raise arrival.error
    finish()
