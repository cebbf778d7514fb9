"""The sessions a peer holds: who opened them, who may feed them, where their outputs go.

A session belongs to the client that opened it. Only that client may control it; only that client and the `previous`
peer it named may send steps into it. For anybody else the session does not exist.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from swarm.core.config import PeerLimits
from swarm.core.errors import PeerBusy, RequestError, SessionLost
from swarm.peer.kv_pool import KVPool
from swarm.shards.session import ShardSession
from swarm.wire.link import Link
from swarm.wire.messages import NextHop


@dataclass(slots=True, eq=False)
class HopSession:
    """One session on this peer.

    Attributes:
        client: link to the client that owns it.
        previous: peer that may send steps besides the client.
        next: where outputs go, with the link to there; None sends them to the client.
        keep_last: how many positions of the newest step the client wants back; 0 means all.
        reserved: token rows reserved in the pool.
    """

    id: bytes
    client: Link
    shard: ShardSession
    previous: str | None
    next: NextHop | None
    next_link: Link | None
    reserved: int
    last_used_s: float
    closed: bool = field(default=False)


class SessionTable:
    """All sessions, with the limits that hold for them; for the event loop only.

    `changed` is called whenever a session came or went.
    """

    def __init__(self, pool: KVPool, limits: PeerLimits, changed: Callable[[], None]) -> None:
        self._pool = pool
        self._limits = limits
        self._changed = changed
        self._sessions: dict[bytes, HopSession] = {}
        self._admitting: dict[bytes, str] = {}
        self._freed = asyncio.Event()

    def __len__(self) -> int:
        return len(self._sessions)

    def __iter__(self) -> Iterator[HopSession]:
        return iter(list(self._sessions.values()))

    @property
    def free_tokens(self) -> int:
        return self._pool.free_tokens

    @property
    def total_tokens(self) -> int:
        return self._pool.total_tokens

    async def admit(self, session: bytes, client: str, tokens: int) -> None:
        """Reserve room for a new session, waiting up to `admission_wait_s` for it.

        Raises:
            RequestError: if it could never be admitted.
            PeerBusy: if the limits or the cache leave no room, with the numbers.
        """
        self._check_limits(session, client, tokens)
        self._admitting[session] = client
        try:
            async with asyncio.timeout(self._limits.admission_wait_s):
                while not self._pool.acquire(session, tokens):
                    await self._freed.wait()
        except TimeoutError as error:
            raise PeerBusy(
                f"no free cache: the session needs {tokens} tokens, {self._pool.free_tokens} of "
                f"{self._pool.total_tokens} are free (waited {self._limits.admission_wait_s:g} s)"
            ) from error
        finally:
            del self._admitting[session]

    def cancel_admission(self, session: bytes) -> None:
        """Give back what `admit` reserved."""
        self._release(session)

    async def wait_empty(self) -> None:
        """Returns when no session is left."""
        while self._sessions:
            await self._freed.wait()

    def _release(self, session: bytes) -> None:
        self._pool.release(session)
        self._freed.set()
        self._freed = asyncio.Event()

    def _check_limits(self, session: bytes, client: str, tokens: int) -> None:
        if session in self._sessions or session in self._admitting:
            raise RequestError("a session of this id exists already: use a fresh id")
        if not self._pool.could_ever_hold(tokens):
            raise RequestError(
                f"the session needs room for {tokens} cached tokens, this peer has {self._pool.total_tokens} in all: "
                "shorten prompt or max tokens, or serve with a larger --cache-tokens"
            )
        if len(self._sessions) + len(self._admitting) >= self._limits.max_sessions:
            raise PeerBusy(f"all {self._limits.max_sessions} sessions are taken (--max-sessions)")
        held = sum(s.client.peer_id == client for s in self._sessions.values())
        held += sum(owner == client for owner in self._admitting.values())
        if held >= self._limits.max_sessions_per_client:
            raise PeerBusy(f"this client holds {held} sessions, the most it may (--max-sessions-per-client)")

    def add(self, session: HopSession) -> None:
        assert session.id not in self._sessions
        self._sessions[session.id] = session
        self._changed()

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

    def grow(self, session: HopSession, tokens: int) -> None:
        """Make sure that `tokens` token rows are reserved for this session.

        Raises:
            PeerBusy: if there is no room.
        """
        if tokens <= session.reserved:
            return
        if not self._pool.acquire(session.id, tokens):
            raise PeerBusy(
                f"no free cache: the session has grown to {tokens} tokens, "
                f"{self._pool.free_tokens} of {self._pool.total_tokens} are free"
            )
        session.reserved = tokens

    def remove(self, session: HopSession) -> None:
        """Forget a session and free its pages; harmless if it is gone already."""
        if self._sessions.pop(session.id, None) is not None:
            session.closed = True
            self._release(session.id)
            self._changed()

    def of_client(self, link: Link) -> list[HopSession]:
        return [s for s in self._sessions.values() if s.client is link]

    def idle_since(self, before_s: float) -> list[HopSession]:
        return [s for s in self._sessions.values() if s.last_used_s < before_s]
