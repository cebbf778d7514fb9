"""The sessions a peer holds: who opened them, who may feed them, where their outputs go.

A session belongs to the client that opened it. Only that client may control it; only that client and the `previous`
peer it named may send steps into it. For anybody else the session does not exist.

    opening --room found--> open --closed, client left, idle, layers failed--> gone
       \\--no room in time, closed or client left before it was open-----------> gone
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from swarm.core.config import PeerLimits
from swarm.core.errors import PeerBusy, PeerUnreachable, RequestError, SessionBehind, SessionLost
from swarm.core.log_fields import session_fields
from swarm.peer.hop_session import HopSession
from swarm.peer.kv_pool import KVPool
from swarm.peer.prefix_store import PrefixStore
from swarm.shards.session import ShardSession
from swarm.wire.link import Link

logger = logging.getLogger(__name__)
ASK_AGAIN_S = 1.0
ASK_EACH_S = 0.25


@dataclass(slots=True, eq=False)
class Opening:
    """A session before it is open: its id is taken, its pages may be reserved."""

    id: bytes
    client: Link
    tokens: int
    withdrawn: bool = False

    def check(self) -> None:
        """Raises:
        SessionLost: if it was closed meanwhile.
        PeerUnreachable: if its client left meanwhile.
        """
        if self.withdrawn:
            raise SessionLost("the session was closed before it was open")
        if self.client.closed:
            raise PeerUnreachable("the client left before its session was open")


class SessionTable:
    """All sessions, with the limits that hold for them; for the event loop only."""

    def __init__(self, pool: KVPool, limits: PeerLimits) -> None:
        self._pool = pool
        self._changed: Callable[[], None] = _nothing
        self._sessions: dict[bytes, HopSession] = {}
        self._openings: dict[bytes, Opening] = {}
        self._freed = asyncio.Event()
        self.limits = limits
        self.prefixes: PrefixStore[ShardSession] = PrefixStore(
            pool, limits.kept_prefixes, is_shared=limits.share_prefixes
        )

    def __len__(self) -> int:
        return len(self._sessions)

    def __iter__(self) -> Iterator[HopSession]:
        return iter(list(self._sessions.values()))

    @property
    def free_tokens(self) -> int:
        """Token rows that sessions can have: what ended sessions keep is evicted for them."""
        return self._pool.free_tokens + self.prefixes.held_tokens

    @property
    def total_tokens(self) -> int:
        return self._pool.total_tokens

    def on_change(self, changed: Callable[[], None]) -> None:
        """Call `changed` whenever a session came or went."""
        self._changed = changed

    def check(self) -> None:
        """Prove the books of the cache."""
        self._pool.check()

    # opening ------------------------------------------------------------------------------------------------------

    @contextmanager
    def opening(self, session: bytes, client: Link, tokens: int) -> Iterator[Opening]:
        """Take the id of a new session; what is reserved for it goes back unless it was added before the end.

        Raises:
            RequestError: if it could never be admitted.
            PeerBusy: if the limits leave no room, with the numbers.
        """
        self._check_limits(session, client.peer_id, tokens)
        opening = self._openings[session] = Opening(session, client, tokens)
        try:
            yield opening
        finally:
            del self._openings[session]
            if session not in self._sessions:
                self._release(session)

    async def reserve(self, opening: Opening) -> None:
        """Reserve its cache, waiting up to `admission_wait_s` for it.

        Raises:
            PeerBusy: if there is no room, with the numbers.
            PeerError: if it was closed, or its client left, meanwhile.
        """
        try:
            async with asyncio.timeout(self.limits.admission_wait_s):
                while not self._acquire(opening.id, opening.tokens):
                    await self._freed.wait()
                    opening.check()
        except TimeoutError as error:
            raise self._busy(
                f"no free cache: the session needs {opening.tokens} tokens, {self.free_tokens} of "
                f"{self._pool.total_tokens} are free (waited {self.limits.admission_wait_s:g} s)"
            ) from error

    def withdraw(self, session: bytes, client: str) -> None:
        """Its client closes a session that is not open yet; for anybody else there is none."""
        opening = self._openings.get(session)
        if opening is not None and opening.client.peer_id == client:
            opening.withdrawn = True
            self._wake()

    def _check_limits(self, session: bytes, client: str, tokens: int) -> None:
        if session in self._sessions or session in self._openings:
            raise RequestError("a session of this id exists already: use a fresh id")
        if not self._pool.could_ever_hold(tokens):
            raise RequestError(
                f"the session needs room for {tokens} cached tokens, this peer has {self._pool.total_tokens} in all: "
                "shorten prompt or max tokens, or serve with a larger --cache-tokens"
            )
        if len(self._sessions) + len(self._openings) >= self.limits.max_sessions:
            raise self._busy(f"all {self.limits.max_sessions} sessions are taken (--max-sessions)")
        held = sum(s.client.peer_id == client for s in self._sessions.values())
        held += sum(o.client.peer_id == client for o in self._openings.values())
        if held >= self.limits.max_sessions_per_client:
            raise self._busy(
                f"this client holds {held} sessions, the most it may (--max-sessions-per-client)"
            )

    def _busy(self, text: str) -> PeerBusy:
        """The more are waiting here, the later the next one is to ask again: the peer hears as much from many."""
        return PeerBusy(text, retry_after_s=ASK_AGAIN_S + ASK_EACH_S * len(self._openings))

    def add(self, session: HopSession) -> None:
        """Its opening has succeeded; pages are reserved.

        Raises:
            PeerError: if it was closed, or its client left, meanwhile.
        """
        self._openings[session.id].check()
        assert session.id not in self._sessions
        self._sessions[session.id] = session
        layers, client = str(session.shard.span), session.client.peer_id
        logger.info("session open", extra=session_fields(session.id, layers=layers, client=client))
        self._changed()

    # finding ------------------------------------------------------------------------------------------------------

    def controlled_by(self, client: str, session: bytes) -> HopSession:
        """The session, if this client owns it.

        Raises:
            SessionLost: if there is none, or it is somebody else's.
        """
        found = self._sessions.get(session)
        if found is None or found.client.peer_id != client:
            raise SessionLost("there is no such session here: it was closed, or this peer was restarted")
        return found

    def fed_by(self, sender: str, session: bytes) -> HopSession:
        """The session, if this sender may send steps into it.

        Raises:
            SessionLost: if there is none, or the sender may not.
        """
        found = self._sessions.get(session)
        if found is None or sender not in (found.client.peer_id, found.previous):
            raise SessionLost("there is no such session here: it was closed, or this peer was restarted")
        return found

    def find(self, session: bytes) -> HopSession | None:
        """The session of this id, whoever owns it."""
        return self._sessions.get(session)

    def of_client(self, link: Link) -> list[HopSession]:
        return [s for s in self._sessions.values() if s.client is link]

    def idle_since(self, before_s: float) -> list[HopSession]:
        return [s for s in self._sessions.values() if s.last_used_s < before_s]

    # growing and ending -------------------------------------------------------------------------------------------

    def grow(self, session: HopSession, number: int, rows: int, reach: range) -> None:
        """Make sure that there is room for step `number` of `rows` over positions `reach`.

        Raises:
            SessionBehind: if positions before it are missing.
            PeerBusy: if there is no room.
        """
        start, end = reach.start, reach.stop
        if start > session.promised:
            raise SessionBehind(f"step starts at position {start}, but only {session.promised} are cached")
        tokens = rows * end
        if tokens > session.reserved:
            if not self._acquire(session.id, tokens):
                raise PeerBusy(
                    f"no free cache: the session has grown to {tokens} tokens, "
                    f"{self.free_tokens} of {self._pool.total_tokens} are free"
                )
            session.reserved = tokens
        session.promised = end if number > session.newest else max(session.promised, end)
        session.newest = max(session.newest, number)

    def remove(self, session: HopSession) -> None:
        """Forget a session and free its pages; harmless if it is gone already."""
        if self._sessions.pop(session.id, None) is not None:
            session.closed = True
            logger.info("session ended", extra=session_fields(session.id, tokens=session.promised))
            self._release(session.id)
            self._changed()

    def keep(self, session: HopSession, chain: Sequence[bytes], now_s: float) -> None:
        """Keep what a removed session has cached, if its accepted steps have all run; `chain` hashes its blocks."""
        shard = session.shard
        is_settled = (shard.last_step, shard.length) == (session.newest, session.promised)
        if is_settled and shard.is_copyable:
            self.prefixes.keep(session.client.peer_id, chain, shard, now_s)

    async def wait_empty(self) -> None:
        """Returns when no session is left."""
        while self._sessions:
            await self._freed.wait()

    def client_left(self) -> None:
        """Let openings look whether their client is still there."""
        self._wake()

    def _acquire(self, session: bytes, tokens: int) -> bool:
        """As the pool's; what ended sessions keep makes room, if that is enough."""
        while self.prefixes.held_tokens >= self._pool.lacking(session, tokens):
            if self._pool.acquire(session, tokens):
                return True
            self.prefixes.evict()
        return False

    def _release(self, session: bytes) -> None:
        self._pool.release(session)
        self._wake()

    def _wake(self) -> None:
        self._freed.set()
        self._freed = asyncio.Event()


def _nothing() -> None:
    """Nobody wants to know."""
