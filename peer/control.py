"""Control messages of clients: open, relink, replay, transfer, inspect, close.

Each runs as a task of its own, because opening may wait for room and dialling takes a round trip; the link's reader
never waits for them. Every request is answered by `Done` or `Failed`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial

from msgspec.structs import replace

from swarm.core.errors import (
    NextUnreachable,
    PeerBusy,
    PeerError,
    PeerIncompatible,
    RequestError,
    SessionLost,
    SwarmError,
)
from swarm.core.prefix_index import BLOCK_TOKENS
from swarm.core.span import Span
from swarm.peer.arrival import Arrival
from swarm.peer.departure import Onward, tell_client
from swarm.peer.hop_session import HopSession
from swarm.peer.link_watch import LinkWatch
from swarm.peer.offer import Offer
from swarm.peer.stepping import Stepping
from swarm.peer.tally import Tally
from swarm.peer.transfer import Receiver, Sender
from swarm.peer.worker import Worker
from swarm.shards.session import ShardSession
from swarm.shards.session_state import StateWriter
from swarm.shards.step import StepTensors
from swarm.wire.control_messages import (
    Close,
    Done,
    Failed,
    Inspect,
    Leaving,
    NextHop,
    Open,
    Relink,
    Replay,
    Request,
    StateEnd,
    Transfer,
)
from swarm.wire.dialer import Dialer
from swarm.wire.failures import failed_of, kind_of
from swarm.wire.link import Link
from swarm.wire.step_messages import ReplayInfo
from swarm.wire.tensors import pack

logger = logging.getLogger(__name__)
LEAVING_RETRY_S = 5.0  # by then clients have read that it leaves, or where it has moved


class Control:
    """Answers control messages. `draining` is set when the peer takes no new sessions."""

    def __init__(
        self,
        node: Dialer,
        offer: Offer,
        worker: Worker,
        stepping: Stepping,
        watch: LinkWatch,
        receiver: Receiver,
        tally: Tally,
    ) -> None:
        self._node = node
        self._offer = offer
        self._table = stepping.table
        self._worker = worker
        self._stepping = stepping
        self._watch = watch
        self._sender = Sender(worker)
        self._receiver = receiver
        self._tally = tally
        self.draining = False

    async def answer(self, link: Link, message: Request) -> None:
        """Do what a request asks and answer it on its link."""
        try:
            done = await self._act(link, message)
        except SwarmError as error:
            self._tally.failures[kind_of(error)] += 1
            await _reply(link, failed_of(message.request, error))
        except Exception:
            logger.exception("answering %s of %s failed", type(message).__name__, link.peer_id)
            await _reply(link, failed_of(message.request, PeerError("internal error, see the peer's log")))
        else:
            await _reply(link, done)

    async def _act(self, link: Link, message: Request) -> Done:
        match message:
            case Open():
                return await self._open(link, message)
            case Relink():
                return await self._relink(link, message)
            case Replay():
                return await self._replay(link, message)
            case Transfer():
                return await self._transfer(link, message)
            case StateEnd():
                done = await self._receiver.finish(link, message)
                self._tally.taken_over += 1
                return done
            case Inspect():
                return self._state(message.request, self._table.controlled_by(link.peer_id, message.session))
            case Close():
                return self._close(link, message)
        raise RequestError(f"this peer does not answer {type(message).__name__}")

    def _state(self, request: int, session: HopSession) -> Done:
        shard = session.shard
        return Done(
            request=request, length=shard.length, step=shard.last_step, free_tokens=self._table.free_tokens
        )

    async def _open(self, link: Link, message: Open) -> Done:
        self._check_compatible(message)
        if self.draining:
            raise PeerBusy("this peer is leaving and takes no new sessions", retry_after_s=LEAVING_RETRY_S)
        with self._table.opening(message.session, link, message.tokens) as opening:
            next_link, *_ = await asyncio.gather(self._dial(message.next), *map(self._greet, message.near))
            self._kept(
                link.peer_id, message
            )  # counts as used: what it needs is not the first to make room for it
            await self._table.reserve(opening)
            shard = self._offer.shard.open(Span(message.start, message.end), rollback=message.rollback)
            donor = message.donor
            session = HopSession(
                id=message.session,
                client=link,
                shard=shard,
                previous=message.previous,
                next=message.next,
                next_link=next_link,
                reserved=message.tokens,
                last_used_s=asyncio.get_running_loop().time(),
                coding=message.coding,
                arrival=None if donor is None else Arrival(donor, StateWriter(shard, message.tokens)),
            )
            self._table.add(session)
        self._tally.opened += 1
        await self._say_if_leaving(session)
        length = self._begin(session, message)
        return replace(self._state(message.request, session), length=length)

    async def _say_if_leaving(self, session: HopSession) -> None:
        """The peer may have begun to drain while the session was opened."""
        if self.draining:
            await tell_client(session.client, Leaving(session=session.id))

    def _begin(self, session: HopSession, message: Open) -> int:
        """Let a new session begin with what an ended one left; its length. The copy runs before the first step."""
        found = self._kept(session.client.peer_id, message)
        if found is None:
            return 0
        cached, session.promised = found
        copied = self._worker.ask(session, partial(session.shard.adopt, cached, session.promised))
        copied.add_done_callback(partial(self._copied, session))
        return session.promised

    def _kept(self, client: str, message: Open) -> tuple[ShardSession, int] | None:
        """The longest beginning of the coming prompt that is kept, within the room that is asked for."""
        span, chain = Span(message.start, message.end), message.prefix[: message.tokens // BLOCK_TOKENS]
        return self._table.prefixes.find(client, span, chain, asyncio.get_running_loop().time())

    def _copied(self, session: HopSession, copied: asyncio.Future[None]) -> None:
        if not copied.cancelled() and copied.exception() is not None and not session.closed:
            logger.warning("a prefix could not be copied: %s", copied.exception())
            self._stepping.end(session)

    def _check_compatible(self, message: Open) -> None:
        offer = self._offer
        if message.model_uid != offer.model_uid:
            raise PeerIncompatible(
                f"this peer serves checkpoint {offer.model_uid}, the client has {message.model_uid}: "
                "both must have exactly the same files"
            )
        if message.precision != offer.precision:
            raise PeerIncompatible(
                f"this peer computes in {offer.precision}, the client asked for {message.precision}"
            )
        if not offer.span.covers(Span(message.start, message.end)):
            raise PeerIncompatible(f"this peer serves layers {offer.span}, not {message.start}:{message.end}")

    async def _relink(self, link: Link, message: Relink) -> Done:
        session = self._table.controlled_by(link.peer_id, message.session)
        with _acting(session):
            next_link = await self._dial(message.next)
        if session.closed:
            raise SessionLost("the session was closed meanwhile")
        session.previous, session.next, session.next_link = message.previous, message.next, next_link
        session.last_used_s = asyncio.get_running_loop().time()
        return self._state(message.request, session)

    async def _dial(self, hop: NextHop | None) -> Link | None:
        if hop is None:
            return None
        try:
            link = await self._node.connect(hop.peer, hop.addresses)
        except PeerError as error:
            raise NextUnreachable(f"cannot reach the next hop {hop.peer}: {error}") from error
        self._watch.add(link)
        return link

    async def _greet(self, hop: NextHop) -> None:
        with suppress(PeerError):  # it will try from its side
            await self._dial(hop)

    async def _replay(self, link: Link, message: Replay) -> Done:
        session = self._table.controlled_by(link.peer_id, message.session)
        if session.next is None:
            raise RequestError("there is no next hop to replay to: relink first")
        with _acting(session):
            async with session.leaving:
                return await self._replay_kept(session, message)

    async def _replay_kept(self, session: HopSession, message: Replay) -> Done:
        """Send what the session has kept once everything queued for it has run.

        Pieces of the same step may still come in from the hop before; their outputs leave behind the replay.
        """
        shard = session.shard
        state = await self._worker.ask(
            session, lambda: Done(request=message.request, length=shard.length, step=shard.last_step)
        )
        chunk = message.chunk or max(state.length, 1)
        for start in range(0, state.length, chunk):
            end = min(start + chunk, state.length)
            kept = await self._worker.ask(session, partial(_slice, shard, state, start, end))
            info = ReplayInfo(until=message.until, last=end == state.length)
            number = max(state.step, 0)  # a session that began with a copy may have run no step yet
            packed = pack(kept.named(), session.coding)
            await self._stepping.send_step(session, packed, Onward(number, start, info))
        session.last_used_s = asyncio.get_running_loop().time()
        self._tally.replays += 1
        self._tally.replayed_tokens += state.length
        return state

    async def _transfer(self, link: Link, message: Transfer) -> Done:
        session = self._table.controlled_by(link.peer_id, message.session)
        with _acting(session):
            target = await self._dial(message.to)
            assert target is not None
            done = await self._sender.send(session, target, message)
        self._tally.handed_over += 1
        return done

    def _close(self, link: Link, message: Close) -> Done:
        self._table.withdraw(message.session, link.peer_id)
        try:
            session = self._table.controlled_by(link.peer_id, message.session)
        except SessionLost:
            return Done(request=message.request)
        self._stepping.end(session)
        self._table.keep(session, message.prefix, asyncio.get_running_loop().time())
        return Done(request=message.request, free_tokens=self._table.free_tokens)


@contextmanager
def _acting(session: HopSession) -> Iterator[None]:
    """One control message at a time dials or replays for a session."""
    if session.acting:
        raise PeerBusy("an earlier relink or replay of this session is still under way")
    session.acting = True
    try:
        yield
    finally:
        session.acting = False


def _slice(shard: ShardSession, state: Done, start: int, end: int) -> StepTensors:
    """Runs in the device's thread, where the session does not change meanwhile."""
    if shard.last_step != state.step or shard.length < end:
        raise PeerBusy("the session went on while it was replayed")
    return shard.kept.slice(start, end)


async def _reply(link: Link, answer: Done | Failed) -> None:
    try:
        await link.send(answer)
    except PeerError as error:
        logger.debug("%s is gone before its answer: %s", link.peer_id, error)
