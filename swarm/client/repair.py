"""Building a chain, and filling the gaps that lost hops leave in one.

A gap is filled by peers whose caches are made by replaying what the hop before it kept (for a gap at the front: what
the client kept). The hops behind the gap keep their caches. Where that is impossible - nobody survived, or two
neighbours cannot reach each other, so that the client must carry an edge - `Rebuild` asks for a fresh chain.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Sequence
from dataclasses import replace

from swarm.client.gap import find_gap
from swarm.client.hop import RemoteHop, SessionShape
from swarm.client.replay import Past, replay
from swarm.client.shared import Shared
from swarm.client.wish import ChainWish
from swarm.core.errors import NextUnreachable, PeerError, SwarmUnavailable
from swarm.core.log_fields import session_fields
from swarm.core.span import Span
from swarm.routing.chain import Chain

logger = logging.getLogger(__name__)
PATIENCE_S = 3.0  # with a gap that nobody can fill, before hops whose peers want to leave are let go


class Rebuild(Exception):
    """The chain cannot be mended in place."""


class Repairer:
    """Opens hops for one session.

    Args:
        on_leaving: called when the peer of one of them wants to leave.
        only: the only peers to use; None allows all.

    Attributes:
        left: peers that were left for better ones; chains of earlier sessions that go through them are not used.
    """

    def __init__(
        self,
        shared: Shared,
        dtype: str,
        on_leaving: Callable[[], None],
        only: frozenset[str] | None = None,
    ) -> None:
        self._shared = shared
        self._on_leaving = on_leaving
        self.dtype = dtype
        self.only = only
        self.left: set[str] = set()
        self._broken_edges: set[tuple[str, str]] = set()

    async def mend_edge(self, hops: Sequence[RemoteHop], victim: RemoteHop, timeout_s: float) -> None:
        """The hop before `victim` could not send to it: let it dial again, once; then the client carries that edge.

        Raises:
            PeerError: if that cannot be arranged.
        """
        index = hops.index(victim)
        if index == 0:
            raise PeerError("the first hop has nobody before it")
        before, previous = hops[index - 1], hops[index - 2].peer_id if index > 1 else None
        edge = (before.peer_id, victim.peer_id)
        if edge not in self._broken_edges:
            self._broken_edges.add(edge)
            with contextlib.suppress(NextUnreachable):
                await before.relink(previous, victim, timeout_s)
                return
        await before.relink(previous, None, timeout_s)
        before.relayed = True

    async def build(self, shape: SessionShape, precision: str | None, give_up_s: float) -> list[RemoteHop]:
        """A fresh chain over all layers; its caches hold what `RemoteHop.reused` says.

        Raises:
            SwarmUnavailable: if layers stay unserved until `give_up_s` (monotonic).
            PeerError: if a peer fails meanwhile; its `peer_id` is set.
        """
        wish = ChainWish(
            tokens=shape.tokens,
            dtype=self.dtype,
            precision=precision,
            coding=shape.coding,
            only=self.only,
            prompt_share=shape.prompt_share,
            row_bytes=shape.row_bytes,
        )
        known = self._shared.routes.find(shape.prefix)
        fresh = replace(wish, without=frozenset(self.left))
        if known is not None and self._shared.navigator.still_serves(known, fresh):
            try:
                return await self.open(known, shape, None, None)
            except PeerError:
                self._shared.routes.forget(known)
                raise
        chain = await self._shared.navigator.wait_for_plan(Span(0, self._shared.layers), wish, give_up_s)
        return await self.open(chain, shape, None, None)

    async def fill(
        self, hops: list[RemoteHop], shape: SessionShape, past: Past, give_up_s: float
    ) -> list[RemoteHop]:
        """The chain with its first gap filled, its new hops' caches made; or the chain with a wider gap.

        Where nobody serves the layers of the gap, hops whose peers want to leave are let go after a while: these peers
        may be the ones who would serve them next.

        Raises:
            Rebuild: if the gap cannot be filled in place.
            SwarmUnavailable, PeerError: as `build`.
        """
        gap = find_gap(hops)
        assert gap is not None
        before = hops[gap.first - 1] if gap.first else None
        after = hops[gap.last + 1] if gap.last + 1 < len(hops) else None
        if before is None and after is None:
            raise Rebuild
        wish = replace(self.wish(hops, gap.first, gap.last, shape), prompt_share=shape.prompt_share)
        chain = await self._plan_or_let_go(hops, gap.span(hops), wish, give_up_s)
        if chain is None:
            return hops
        new = await self.open(chain, shape, before, after)
        repaired = [*hops[: gap.first], *new, *hops[gap.last + 1 :]]
        try:
            if any(hop.relayed for hop in (new if after else new[:-1])) or self._is_broken(before, new[0]):
                raise Rebuild
            await self.link(repaired, gap.first, len(new), shape.timeout_s)
            await replay(self._shared, before, new, past)
        except BaseException:
            await self.dismiss(new)
            raise
        return repaired

    async def _plan_or_let_go(
        self, hops: Sequence[RemoteHop], span: Span, wish: ChainWish, give_up_s: float
    ) -> Chain | None:
        """A chain for a gap; None if hops were let go instead, because their peers want to leave."""
        clock = asyncio.get_running_loop().time
        patient_until_s = clock() + PATIENCE_S

        def to_let_go() -> list[RemoteHop]:
            return [hop for hop in hops if hop.leaving and hop.usable] if clock() >= patient_until_s else []

        try:
            return await self._shared.navigator.wait_for_plan(
                span, wish, give_up_s, lambda: bool(to_let_go())
            )
        except SwarmUnavailable:
            leaving = to_let_go()
            if not leaving:
                raise
            await self.dismiss(leaving)
            return None

    def wish(
        self,
        hops: Sequence[RemoteHop],
        first: int,
        last: int,
        shape: SessionShape,
        without: frozenset[str] = frozenset(),
    ) -> ChainWish:
        """What is wanted in the place of `hops[first : last + 1]`, for decoding alone."""
        return ChainWish(
            tokens=shape.tokens,
            dtype=self.dtype,
            source=hops[first - 1].peer_id if first else None,
            sink=hops[last + 1].peer_id if last + 1 < len(hops) else None,
            precision=hops[first].precision,
            coding=shape.coding,
            only=self.only,
            without=without,
            row_bytes=shape.row_bytes,
        )

    async def open(
        self, chain: Chain, shape: SessionShape, before: RemoteHop | None, after: RemoteHop | None
    ) -> list[RemoteHop]:
        """Sessions on the peers of a chain, between these neighbours, who do not know them yet.

        Raises:
            PeerError: if a peer fails; no session is left open then.
        """
        new = [await self._connect(hop.peer_id, hop.span, chain.precision) for hop in chain.hops]
        previous = [before, *new[:-1]]
        following = [*new[1:], after]
        try:
            results = await asyncio.gather(
                *(
                    self._open_one(hop, shape, p, f)
                    for hop, p, f in zip(new, previous, following, strict=True)
                ),
                return_exceptions=True,
            )
            for result in results:
                if isinstance(result, BaseException):
                    raise result
        except BaseException:
            await self.dismiss(new)
            raise
        for hop in new:
            self._shared.navigator.standing.worked(hop.peer_id)
        return new

    async def _connect(self, peer_id: str, span: Span, precision: str) -> RemoteHop:
        addresses = self._shared.navigator.addresses(peer_id)
        link = await self._shared.node.connect(
            peer_id, addresses, timeout_s=self._shared.config.open_timeout_s
        )
        hop = RemoteHop(link, span, precision, addresses, on_leaving=self._on_leaving)
        self._shared.inbox.introduce(hop)
        return hop

    async def _open_one(
        self, hop: RemoteHop, shape: SessionShape, before: RemoteHop | None, after: RemoteHop | None
    ) -> None:
        previous = before.peer_id if before else None
        if after is not None and (hop.peer_id, after.peer_id) in self._broken_edges:
            hop.relayed, after = True, None
        try:
            await hop.open(shape, previous, after)
        except NextUnreachable as error:
            logger.info("%s; the client carries this edge itself", error)
            hop.relayed = True
            await hop.open(shape, previous, None)
        logger.info("hop open", extra=session_fields(hop.session, peer=hop.peer_id, layers=str(hop.span)))

    def _is_broken(self, before: RemoteHop | None, hop: RemoteHop) -> bool:
        return before is not None and (before.peer_id, hop.peer_id) in self._broken_edges

    async def link(self, hops: Sequence[RemoteHop], first: int, count: int, timeout_s: float) -> None:
        """Make the neighbours of the new hops `[first, first + count)` know them.

        Raises:
            Rebuild: if one of them cannot reach its next hop.
        """
        end = first + count
        asked = []
        if end < len(hops):
            following = hops[end + 1] if end + 1 < len(hops) and not hops[end].relayed else None
            if following is not None and not following.usable:
                following = None  # the next gap
            asked.append(hops[end].relink(hops[end - 1].peer_id, following, timeout_s))
        if first:
            previous = hops[first - 2].peer_id if first > 1 else None
            asked.append(hops[first - 1].relink(previous, hops[first], timeout_s))
        for answer in await asyncio.gather(*asked, return_exceptions=True):
            if isinstance(answer, NextUnreachable):
                raise Rebuild from answer
            if isinstance(answer, BaseException):
                raise answer
        if first:
            hops[first - 1].relayed = False

    async def close(self, hops: Sequence[RemoteHop], prefix: Sequence[bytes] = ()) -> None:
        """End the sessions of these hops as far as their peers can be reached; nobody waits for a hanging one.

        All hops have the whole of what `prefix` hashes, and may keep it.
        """
        live = [hop for hop in hops if hop.usable]
        for hop in hops:
            hop.lost = True
        await asyncio.gather(*(self._close_one(hop, prefix) for hop in live))

    async def dismiss(self, hops: Sequence[RemoteHop]) -> None:
        """Give up on hops that were just opened, or that may still be about to open."""
        await asyncio.gather(*(hop.dismiss() for hop in hops))

    async def _close_one(self, hop: RemoteHop, prefix: Sequence[bytes]) -> None:
        try:
            await hop.close(timeout_s=1.0, prefix=prefix)
        except PeerError as error:
            logger.debug("could not close a session at %s: %s", hop.peer_id, error)
