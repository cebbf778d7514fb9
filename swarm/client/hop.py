"""One hop of a chain, as the client that opened it sees it."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from swarm.core.config import Coding
from swarm.core.errors import PeerError
from swarm.core.prefix_index import BLOCK_TOKENS
from swarm.core.span import Span
from swarm.wire.control_messages import Close, Done, Inspect, NextHop, Open, Relink, Replay, Transfer
from swarm.wire.link import Link

_UNANSWERED = (1 << 53) - 1  # a request number that no link reaches
_DISMISS_S = 1.0


@dataclass(frozen=True, slots=True)
class SessionShape:
    """What every hop of a session is opened with.

    `tokens` are token rows, `prompt_share` is how many of them are to be computed for each token to come, `row_bytes`
    what each takes on the wire, `prefix` hashes the blocks to come, `coding` is how activations travel, `donor` is the
    hop whose peer will bring the session's state, `before` the one that will send steps.
    """

    model_uid: str
    tokens: int
    rollback: bool
    timeout_s: float
    prefix: tuple[bytes, ...] = ()
    coding: Coding | None = None
    prompt_share: float = 0.0
    row_bytes: int = 0
    donor: RemoteHop | None = None
    before: RemoteHop | None = None


@dataclass(slots=True, weakref_slot=True, eq=False)
class RemoteHop:
    """A session of ours on one peer.

    Attributes:
        relayed: its output comes to the client, which carries it to the next hop, because the peers cannot reach
            each other (or because it is the last hop).
        leaving: the peer asked for this session to be moved elsewhere; `on_leaving` is called when it does.
        lost: the peer died, or forgot the session.
        reused: positions the session began with, because the peer had kept them.
    """

    link: Link
    span: Span
    precision: str
    addresses: tuple[str, ...] = ()
    session: bytes = field(default_factory=lambda: secrets.token_bytes(16))
    relayed: bool = False
    lost: bool = False
    reused: int = 0
    leaving: bool = False
    on_leaving: Callable[[], None] | None = None

    @property
    def peer_id(self) -> str:
        return self.link.peer_id

    @property
    def usable(self) -> bool:
        return not self.lost and not self.link.closed

    def as_next(self) -> NextHop:
        """How a neighbour is told to send here."""
        return NextHop(peer=self.peer_id, session=self.session, addresses=list(self.addresses))

    async def open(self, shape: SessionShape, previous: str | None, following: RemoteHop | None) -> Done:
        """Create the session on the peer.

        Raises:
            PeerError, RequestError: as `Link.request`; NextUnreachable if the peer cannot reach `following`.
        """
        done = await self.link.request(
            Open(
                request=0,
                session=self.session,
                model_uid=shape.model_uid,
                precision=self.precision,
                start=self.span.start,
                end=self.span.end,
                tokens=shape.tokens,
                rollback=shape.rollback,
                prefix=list(shape.prefix),
                coding=shape.coding,
                previous=previous,
                next=following.as_next() if following is not None else None,
                donor=shape.donor.peer_id if shape.donor is not None else None,
                near=[hop.as_next() for hop in (shape.donor, shape.before) if hop is not None],
            ),
            timeout_s=shape.timeout_s,
        )
        self.reused = done.length if done.length <= len(shape.prefix) * BLOCK_TOKENS else 0
        return done

    async def relink(self, previous: str | None, following: RemoteHop | None, timeout_s: float) -> Done:
        """Tell the peer its new neighbours."""
        hop = following.as_next() if following is not None else None
        message = Relink(request=0, session=self.session, previous=previous, next=hop)
        return await self.link.request(message, timeout_s=timeout_s)

    async def replay(self, until: int, chunk: int, timeout_s: float) -> Done:
        """Have the peer send its kept outputs to its next hop; answers with how far they go."""
        message = Replay(request=0, session=self.session, until=until, chunk=chunk)
        return await self.link.request(message, timeout_s=timeout_s)

    async def transfer(self, target: RemoteHop, timeout_s: float) -> Done:
        """Have the peer hand the session's state to the session `target`; answers with how far it goes."""
        message = Transfer(request=0, session=self.session, to=target.as_next())
        return await self.link.request(message, timeout_s=timeout_s)

    async def inspect(self, timeout_s: float) -> Done:
        """Ask for the session's length and last step."""
        return await self.link.request(Inspect(request=0, session=self.session), timeout_s=timeout_s)

    async def close(self, timeout_s: float, prefix: Sequence[bytes] = ()) -> Done:
        """End the session on the peer, which may keep the cache of blocks that have these hashes."""
        message = Close(request=0, session=self.session, prefix=list(prefix))
        return await self.link.request(message, timeout_s=timeout_s)

    async def dismiss(self) -> None:
        """Give up on this hop: should its peer live, it ends the session, but nobody waits for its answer."""
        self.lost = True
        try:
            async with asyncio.timeout(_DISMISS_S):
                await self.link.send(Close(request=_UNANSWERED, session=self.session))
        except (PeerError, TimeoutError):
            return  # its sessions end with its link
