"""Moves the hops of peers that want to leave: other peers take over their state between two steps.

Preparations run beside the steps of the session. What cannot be moved stays where it is until its peer is gone; then
it is computed again, as after any loss.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Protocol

from swarm.client.hop import RemoteHop, SessionShape
from swarm.client.repair import Rebuild, Repairer
from swarm.client.shared import Shared
from swarm.client.wish import ChainWish
from swarm.core.errors import NextUnreachable, PeerBusy, PeerError, RequestError, SwarmError, SwarmUnavailable

logger = logging.getLogger(__name__)
PAUSE_S = 0.5
LONGEST_PAUSE_S = 5.0


class Movable(Protocol):
    """A session whose hops may be exchanged by whoever holds its `turn`."""

    hops: list[RemoteHop]
    turn: asyncio.Lock

    def shape(self) -> SessionShape:
        """What its hops are opened with."""
        ...


class Takeover:
    """Exchanges the leaving hops of one session, one after the other, in a task of its own."""

    def __init__(self, shared: Shared, repairer: Repairer, session: Movable) -> None:
        self._shared = shared
        self._repairer = repairer
        self._session = session
        self._tries: Counter[bytes] = Counter()
        self._refused: set[str] = set()
        self._task: asyncio.Task[None] | None = None

    def begin(self) -> None:
        """A hop wants to leave."""
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._run())

    async def stop(self) -> None:
        """Give up what is under way."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    async def _run(self) -> None:
        try:
            while (hop := await self._next()) is not None:
                if not await self._try(hop):
                    tries = self._tries[hop.session]
                    await asyncio.sleep(min(PAUSE_S * 2.0 ** (tries - 1), LONGEST_PAUSE_S))
        except Exception:
            logger.exception("moving a session failed")

    async def _next(self) -> RemoteHop | None:
        """The leaving hop that was tried least."""
        async with self._session.turn:  # a chain that is just being built is complete then
            leaving = [hop for hop in self._session.hops if hop.leaving and hop.usable]
        return min(leaving, key=lambda hop: self._tries[hop.session], default=None)

    async def _try(self, hop: RemoteHop) -> bool:
        self._tries[hop.session] += 1
        try:
            await self._move(hop)
        except RequestError as error:
            logger.info("%s; the session stays at %s until that is gone", error, hop.peer_id)
            hop.leaving = False
        except SwarmUnavailable as error:
            logger.info("nobody can take over layers %s now: %s", hop.span, error)
            self._refused.clear()
            await self._look()
            return False
        except PeerError as error:
            logger.info("layers %s could not be handed over: %s", hop.span, error)
            return False
        return True

    async def _look(self) -> None:
        """Somebody may have come since the last regular look."""
        with suppress(SwarmError):
            await self._shared.navigator.refresh()

    async def _move(self, hop: RemoteHop) -> None:
        before, after = self._neighbours(hop)
        new = await self._open(hop, before, after)
        try:
            async with self._session.turn:
                if self._neighbours(hop) != (before, after):
                    raise PeerBusy("the chain has changed meanwhile")
                await self._hand_over(hop, new)
        except BaseException:
            await self._repairer.dismiss([new])
            raise
        await self._repairer.close([hop])

    def _neighbours(self, hop: RemoteHop) -> tuple[RemoteHop | None, RemoteHop | None]:
        """Raises:
        PeerBusy: if the hop is no part of the chain any more, or a neighbour is lost.
        """
        hops = self._session.hops
        if hop not in hops or not all(other.usable for other in hops):
            raise PeerBusy("the chain has changed meanwhile")
        index = hops.index(hop)
        before = hops[index - 1] if index else None
        return before, hops[index + 1] if index + 1 < len(hops) else None

    async def _open(self, hop: RemoteHop, before: RemoteHop | None, after: RemoteHop | None) -> RemoteHop:
        """A session for the same layers at a peer that is neither leaving nor a neighbour."""
        shape, navigator = self._session.shape(), self._shared.navigator
        unfit = [other for other in self._session.hops if other.leaving or other in (before, after)]
        wish = ChainWish(
            tokens=shape.tokens,
            dtype=self._repairer.dtype,
            source=before.peer_id if before else None,
            sink=after.peer_id if after else None,
            precision=hop.precision,
            coding=shape.coding,
            only=self._repairer.only,
            together=hop.span,
            without=frozenset({other.peer_id for other in unfit} | self._refused),
            row_bytes=shape.row_bytes,
        )
        chain = navigator.plan(hop.span, wish)
        shape = replace(shape, donor=hop, before=before)
        try:
            (new,) = await self._repairer.open(chain, shape, before, after)
        except PeerError as error:
            navigator.standing.blame(chain.hops[0].peer_id, error)
            raise
        return new

    async def _hand_over(self, hop: RemoteHop, new: RemoteHop) -> None:
        """`new` takes the place of `hop`; the caller holds the session's turn."""
        config, session = self._shared.config, self._session
        try:
            done = await hop.transfer(new, config.step_timeout_s)
        except NextUnreachable:
            self._refused.add(new.peer_id)
            raise
        index = session.hops.index(hop)
        exchanged = [*session.hops[:index], new, *session.hops[index + 1 :]]
        try:
            await self._connect(exchanged, index, (done.length, done.step))
        except (Rebuild, PeerError) as error:
            await hop.dismiss()  # its neighbours may know it no more: the next step repairs the chain
            raise PeerBusy(
                f"the neighbours of layers {hop.span} could not be linked anew: {error!r}"
            ) from error
        session.hops = exchanged
        self._shared.stats.handovers += 1

    async def _connect(self, hops: Sequence[RemoteHop], index: int, state: tuple[int, int]) -> None:
        """Link the neighbours of a new hop that should be in this state."""
        timeout_s = self._shared.config.open_timeout_s
        _, found = await asyncio.gather(
            self._repairer.link(hops, index, 1, timeout_s), hops[index].inspect(timeout_s)
        )
        if (found.length, found.step) != state:
            raise PeerBusy(f"it holds {found.length} positions, not {state[0]}")
