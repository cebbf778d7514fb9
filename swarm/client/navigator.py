"""The client's picture of the swarm: refreshes it, measures links, avoids peers that failed, and plans chains."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable
from dataclasses import replace
from typing import Protocol

from swarm.client.outlook import Outlook
from swarm.client.standing import Standing
from swarm.client.wish import ChainWish
from swarm.core.config import ClientConfig
from swarm.core.errors import PeerError, RequestError, SwarmError, SwarmUnavailable
from swarm.core.precision import dtype_of
from swarm.core.span import Span
from swarm.routing.chain import Chain, ChainRequest, Hop, price
from swarm.routing.latency import KnownLinks, LatencyTable
from swarm.routing.observed import ObservedPaces
from swarm.routing.opened import OpenedSessions
from swarm.routing.position import Position
from swarm.routing.records import PeerRecord
from swarm.routing.refresh import RecordSource, Refresher
from swarm.routing.spread import pick_chain
from swarm.routing.status import summarise
from swarm.wire.dialer import Dialer
from swarm.wire.messages import PROTOCOL_VERSION

logger = logging.getLogger(__name__)
MOST_MEASURED = 32
MEASURE_TIMEOUT_S = 3.0
LEARNING_ROUNDS = 4  # so that the first session has some use of its place
POLL_S = 0.25
WORTH_A_PROMPT = 1.5  # tokens may take so much longer where the prompt need not be computed


class NavigatorNode(Dialer, Protocol):
    """A node with its part in the directory."""

    @property
    def directory(self) -> RecordSource:
        """Where announcements are read."""
        ...


class Navigator:
    """Plans chains for one model. For the event loop only.

    Attributes:
        standing: the peers that failed or are busy; plans go around them.
        together: layers that one peer must serve all of; known once the model is loaded.
    """

    def __init__(
        self,
        node: NavigatorNode,
        model_uid: str,
        config: ClientConfig,
        draw: Callable[[], float] = random.random,
    ) -> None:
        self._node = node
        self._config = config
        self.together: Span | None = None
        self._latencies = LatencyTable()
        self.standing = Standing()
        self._opened = OpenedSessions()
        self._draw = draw
        self._position = Position(draw)
        self._paces = ObservedPaces()
        self._refresher = Refresher(
            node.directory, model_uid, protocol=PROTOCOL_VERSION, period_s=config.refresh_s
        )
        self.view = self._refresher.view()

    async def refresh(self) -> None:
        """Read the records again and measure links to peers that have none yet."""
        self.view = await self._refresher.refresh()
        self._latencies.publish(self.view.peers)
        self._latencies.retain({self._node.peer_id, *self.view.by_id})
        self._paces.retain(self.view.by_id)
        await self._measure()
        self._find_place()

    async def run(self) -> None:
        """Refresh for ever; where that fails, what is known stays until its leases end."""
        while True:
            await asyncio.sleep(self._refresher.pause_s)
            try:
                await self.refresh()
            except SwarmError as error:
                logger.info("the picture of the swarm could not be refreshed: %s", error)

    async def close(self) -> None:
        """End a refresh that is under way."""
        await self._refresher.close()

    async def _measure(self) -> None:
        linked = {link.peer_id for link in self._node.links()}
        fresh = [
            r for r in self.view.peers if r.peer_id not in linked and not self.standing.is_failing(r.peer_id)
        ]
        await asyncio.gather(*(self._dial(record) for record in fresh[:MOST_MEASURED]))
        self._observe_links()

    def _find_place(self) -> None:
        """Where this client is among the peers, from its links: it predicts those that it has not."""
        rtts_s = [(link.peer_id, link.rtt_s) for link in self._node.links()]
        for _ in range(LEARNING_ROUNDS):
            self._position.learn(rtts_s, self.view.by_id)
        self._latencies.locate(self._node.peer_id, self._position.place)

    def _observe_links(self) -> None:
        for link in self._node.links():
            if link.rtt_s is not None:
                self._latencies.observe_rtt(self._node.peer_id, link.peer_id, link.rtt_s)

    async def _dial(self, record: PeerRecord) -> None:
        try:
            await self._node.connect(record.peer_id, record.addresses, timeout_s=MEASURE_TIMEOUT_S)
        except PeerError as error:
            self.standing.blame(record.peer_id, error)

    def took(self, hop: Hop, tokens: int, seconds: float) -> None:
        """This hop has done a step of `tokens` token rows, in so many seconds of its own."""
        record = self.view.get(hop.peer_id)
        if record is not None:
            self._paces.observe(record, len(hop.span), tokens, seconds, _now_s())

    def step_s(self, hop: Hop) -> float:
        """What a token takes at this hop of a running chain, as far as anybody knows; 0 if nobody does."""
        record = self.view.get(hop.peer_id)
        return 0.0 if record is None else self._paces.layer_s(record, _now_s()) * len(hop.span)

    async def look(self) -> Outlook:
        """What is known now, without asking anybody."""
        self.view = self._refresher.view()
        rtt_s = {link.peer_id: link.rtt_s for link in self._node.links()}
        return Outlook(
            report=summarise(self.view),
            failing={
                peer_id: reason
                for peer_id, reason in self.standing.last_failure.items()
                if peer_id not in rtt_s or self.standing.is_failing(peer_id)
            },
            rtt_s={peer_id: seconds for peer_id, seconds in rtt_s.items() if seconds is not None},
        )

    def addresses(self, peer_id: str) -> tuple[str, ...]:
        record = self.view.get(peer_id)
        return record.addresses if record is not None else ()

    def plan(self, span: Span, request: ChainWish) -> Chain:
        """One of the cheapest usable chains (see `pick_chain`), from the picture as it is.

        Raises:
            RequestError: if the session is larger than the whole cache of every peer of some layer.
            SwarmUnavailable: if some layers have no usable peer now.
        """
        self.view = self._refresher.view()
        self._observe_links()
        self._check_size(span, request.tokens)
        opened = self._opened.counts(self.view.by_id)
        found: list[Chain] = []
        failure: SwarmUnavailable | None = None
        for precision in self._precisions(request):
            try:
                wanted = self._chain_request(request, precision)
                found.append(pick_chain(self.view, span, wanted, self._draw, opened))
            except SwarmUnavailable as error:
                failure = failure or error
        if found:
            return min(found, key=lambda chain: chain.cost_s)
        assert failure is not None
        raise failure

    def price(self, hop: Hop, request: ChainWish) -> float | None:
        """What one token through this hop of a running chain costs; None if the peer is not known any more.

        Links that nobody has measured count as nothing: they work, and a guess is no reason to leave them.
        """
        record = self.view.get(hop.peer_id)
        if record is None:
            return None
        wanted = self._chain_request(request, record.precision)
        return price(hop, record, replace(wanted, links=KnownLinks(self._latencies)))

    def still_serves(self, chain: Chain, request: ChainWish) -> bool:
        """Whether an earlier chain, which has the prompt cached, can be used for this, and is worth it."""
        self.view = self._refresher.view()
        precision = chain.precision
        if request.precision not in (None, precision) or dtype_of(precision) != request.dtype:
            return False
        wanted = self._chain_request(request, precision)
        found = [(self.view.get(hop.peer_id), hop.span) for hop in chain.hops]
        if not all(r is not None and r.span.covers(span) and not wanted.objection(r) for r, span in found):
            return False
        whole = Span(chain.hops[0].span.start, chain.hops[-1].span.end)
        ours = frozenset(hop.peer_id for hop in chain.hops)
        try:
            known = self.plan(whole, replace(request, only=ours, precision=precision, prompt_share=0.0))
            return known.cost_s <= WORTH_A_PROMPT * self.plan(whole, request).cost_s
        except SwarmUnavailable:  # a lease has just ended
            return False

    def _precisions(self, request: ChainWish) -> list[str]:
        """The precisions to try; at least one, so that the search can say what is missing."""
        if request.precision is not None:
            return [request.precision]
        return [p for p in self.view.precisions() if dtype_of(p) == request.dtype] or [request.dtype]

    def _chain_request(self, request: ChainWish, precision: str) -> ChainRequest:
        own = self._node.peer_id
        return ChainRequest(
            source=request.source or own,
            sink=request.sink or own,
            links=self._latencies,
            tokens=request.tokens,
            precision=precision,
            coding=request.coding,
            avoid=self.standing.failing() | request.without,
            busy=self.standing.resting(),
            only=request.only,
            together=request.together or self.together,
            prompt_share=request.prompt_share,
            row_bytes=request.row_bytes,
            measured=self._paces.stragglers(self.view.by_id, _now_s()),
        )

    def _check_size(self, span: Span, tokens: int) -> None:
        for layer in range(span.start, span.end):
            room = [r.total_tokens for r in self.view.peers if layer in r.span]
            if room and max(room) < tokens:
                raise RequestError(
                    f"the prompt and the tokens to come need room for {tokens} cached tokens, the largest cache that "
                    f"serves layer {layer} holds {max(room)}: shorten the prompt or max tokens, or serve with a "
                    "larger --cache-tokens"
                )

    async def wait_for_plan(
        self, span: Span, request: ChainWish, deadline_s: float, is_enough: Callable[[], bool] = lambda: False
    ) -> Chain:
        """Like `plan`, for a session that is about to open, but wait for peers until `deadline_s` (monotonic).

        Raises:
            SwarmUnavailable: naming the missing layers, when the deadline has passed, or the wait `is_enough`.
        """
        told = ""
        while True:
            try:
                chain = self.plan(span, request)
            except SwarmUnavailable as error:
                left = deadline_s - _now_s()
                if is_enough():
                    raise
                if left <= 0:
                    raise SwarmUnavailable(
                        f"{error} (waited {self._config.unavailable_timeout_s:g} s){self.standing.last_words()}: "
                        "start a peer for them with `swarm serve`, or try again later"
                    ) from error
                if str(error) != told:
                    told = str(error)
                    logger.warning("%s; waiting up to %.0f s for peers", told, left)
            else:
                self._opened.add(chain, self.view.by_id)
                return chain
            await asyncio.sleep(min(POLL_S, left))
            await self.refresh()


def _now_s() -> float:
    """The event loop's clock, which deadlines are measured by."""
    return asyncio.get_running_loop().time()
