"""Looks for better peers for a session that runs: at times, and soon when one of its hops has become slow."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

from swarm.client.hop import RemoteHop, SessionShape
from swarm.client.repair import Repairer
from swarm.client.shared import Shared
from swarm.core.errors import SwarmError
from swarm.routing.chain import PREFILL_SHARE, Hop
from swarm.routing.replan import Decline, Occasions, Switch
from swarm.shards.history import History

logger = logging.getLogger(__name__)


class Replanner:
    """Decides for one session which hop to leave. Looks at one hop at a time: the one that costs most per layer."""

    def __init__(self, shared: Shared, repairer: Repairer) -> None:
        self._shared = shared
        self._repairer = repairer
        self._occasions: Occasions | None = None
        self._decline = Decline()

    def changed(self) -> None:
        """The chain is new, or has just been mended: wait before looking again."""
        self._occasions = Occasions(asyncio.get_running_loop().time())
        self._decline = Decline()

    def is_time(self) -> bool:
        """Whether `hop_to_leave` is worth its time before this step."""
        now = asyncio.get_running_loop().time()
        return self._occasions is not None and self._occasions.may_glance(now)

    def hop_to_leave(
        self, hops: Sequence[RemoteHop], shape: SessionShape, history: History, steps_left: int
    ) -> RemoteHop | None:
        """A hop whose layers are clearly better served by others, so that making their caches pays; usually None."""
        if any(hop.relayed for hop in hops[:-1]):
            return None  # such a chain can only be built anew as a whole
        occasions, now = self._occasions, asyncio.get_running_loop().time()
        step_s = self._shared.navigator.step_s
        alarmed = self._decline.seen({hop.peer_id: step_s(Hop(hop.peer_id, hop.span)) for hop in hops})
        if occasions is None or not occasions.is_due(alarmed, now):
            return None
        occasions.looked(now)
        prices = {hop: price for hop in hops if (price := self._price(hops, hop, shape)) is not None}
        if not prices:
            return None
        dearest = max(prices, key=lambda hop: prices[hop] / len(hop.span))
        switch = self._switch(hops, dearest, prices[dearest], shape, history, steps_left)
        if switch is None or not switch.is_worthwhile:
            return None
        logger.info(
            "layers %s take %.1f ms at %s, %.1f ms elsewhere: moving there",
            dearest.span,
            switch.now_s * 1e3,
            dearest.peer_id[-8:],
            switch.best_s * 1e3,
        )
        return dearest

    def _price(self, hops: Sequence[RemoteHop], hop: RemoteHop, shape: SessionShape) -> float | None:
        wish = self._repairer.wish(hops, hops.index(hop), hops.index(hop), shape)
        return self._shared.navigator.price(Hop(hop.peer_id, hop.span), wish)

    def _switch(
        self,
        hops: Sequence[RemoteHop],
        hop: RemoteHop,
        now_s: float,
        shape: SessionShape,
        history: History,
        steps_left: int,
    ) -> Switch | None:
        index = hops.index(hop)
        wish = self._repairer.wish(hops, index, index, shape, without=frozenset({hop.peer_id}))
        try:
            best_s = self._shared.navigator.plan(hop.span, wish).cost_s
        except SwarmError:
            return None
        token_s = self._shared.pace.token_s
        each_s = PREFILL_SHARE * best_s if token_s is None else token_s
        return Switch(now_s, best_s, steps_left, history.length * history.rows * each_s)
