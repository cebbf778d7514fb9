"""A peer's life from its first announcement to its last: it joins, serves, moves where it is needed, and leaves.

choose --claimed--> load, probe --> ONLINE --move--> drain, load elsewhere, probe --> ONLINE
                                      \\--signal--> drain --> LEFT
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
from collections.abc import Callable
from contextlib import suppress

from swarm.core.config import CODINGS
from swarm.core.errors import SwarmError
from swarm.core.span import Span
from swarm.core.version import VERSION
from swarm.peer.announcer import Announcer
from swarm.peer.balancer import Balancer
from swarm.peer.orders import Orders
from swarm.peer.ready import ReadyInfo, tell_ready
from swarm.peer.speed import Speed
from swarm.peer.stint import NO_LAYERS, Layers, Stint, Workshop
from swarm.peer.stop_signals import StopSignals
from swarm.routing.decision import Decision
from swarm.routing.placement import Newcomer, join, settle
from swarm.routing.position import Position
from swarm.routing.records import PeerRecord, PeerState
from swarm.routing.refresh import Refresher
from swarm.routing.seats import Board
from swarm.wire.messages import PROTOCOL_VERSION

logger = logging.getLogger(__name__)
WITHDRAW_S = 2.0
LOCATE_S = 10.0
HOLE_DRAIN_S = 5.0  # sessions that wait for missing layers do not end by themselves


class Life:
    """What a peer does and announces; a `Movable` and `Orderable`. For the event loop only."""

    def __init__(self, shop: Workshop) -> None:
        self._shop = shop
        self._config = shop.config
        self._announcer = Announcer(shop.node.directory, self._record, self._config.limits.lease_s)
        self._refresher = Refresher(shop.node.directory, shop.source.uid, protocol=PROTOCOL_VERSION)
        self._position = Position(random.random)
        self._stint: Stint | None = None
        self._span = Span(0, 1)  # where it serves, or will as soon as it has loaded; set by `run`
        self._claim: Span | None = None
        self._renewal: asyncio.Task[None] | None = None
        self._speed = Speed()
        self._load_s = 0.0

    async def run(self, layers: int, on_ready: Callable[[ReadyInfo], None], stop: StopSignals) -> None:
        """Serve `layers` layers until a signal comes."""
        start = self._shop.tasks.create_task
        watch = start(self._watch_node())
        try:
            await self._join(layers)
        except SwarmError:
            await self._withdraw()
            raise
        self._tell_ready(on_ready)
        stop.serving()
        balancing = start(self._balance())
        locating = start(self._locate())
        await stop.first.wait()
        balancing.cancel()
        await asyncio.wait({balancing})  # a move that is under way is given up
        await self._leave(stop)
        watch.cancel()
        locating.cancel()
        if self._renewal is not None:
            self._renewal.cancel()
        if self._stint is not None:
            self._stint.end()
        await self._refresher.close()

    async def _locate(self) -> None:
        """Keep this peer's place in the network's coordinates current."""
        while True:
            await asyncio.sleep(LOCATE_S)
            try:
                view = await self._refresher.refresh()
            except SwarmError as error:
                logger.info("the records could not be read: %s", error)
                continue
            links = ((link.peer_id, link.rtt_s) for link in self._shop.node.links())
            self._position.learn(links, view.by_id)

    async def _balance(self) -> None:
        file = self._config.layers_file
        if file is not None:
            await Orders(file, self, self._shop.source.n_layers).run()
        elif self._may_move:
            await Balancer(self, self._config.balance).run()

    @property
    def _may_move(self) -> bool:
        is_whole = len(self._span) == self._shop.source.n_layers
        return self._config.layers is None and self._config.balance.moves and not is_whole

    def _tell_ready(self, on_ready: Callable[[ReadyInfo], None]) -> None:
        node = self._shop.node
        name = self._shop.source.short_name
        span, url = str(self._span), self._shop.watch.url
        info = ReadyInfo(node.peer_id, tuple(node.addresses), name, span, os.getpid(), url)
        tell_ready(info, self._config.ready_file)
        on_ready(info)

    async def _watch_node(self) -> None:
        raise await self._shop.node.wait_failed()

    # joining ------------------------------------------------------------------------------------------------------

    async def _join(self, layers: int) -> None:
        self._span = self._config.layers or await self._choose(layers)
        await self._serve_at(self._span, NO_LAYERS)
        self._renew()

    def _renew(self) -> None:
        """Keep what was announced alive from now on."""
        if self._renewal is None:
            self._renewal = self._shop.tasks.create_task(self._announcer.renew())

    async def _choose(self, layers: int) -> Span:
        """The place that needs this peer most, also after others that start at the same time have claimed theirs."""
        board, _ = await self.board()
        replicas = self._config.balance.replicas
        decision = join(board, Newcomer(self.peer_id, layers), replicas=replicas)
        if self._config.node.peers and layers < board.n_layers:
            self._span = decision.span
            await self._announcer.announce(PeerState.JOINING)
            self._renew()  # loading may take longer than a lease
            await asyncio.sleep(self._config.balance.settle_s)
            board, _ = await self.board()
            if board.find(self.peer_id) is not None:
                decision = settle(board, self.peer_id, replicas=replicas)
        logger.info("%s", decision)
        return decision.span

    async def _serve_at(self, span: Span, held: Layers) -> None:
        self._span = span
        self._stint = stint = await Stint.begin(self._shop, span, held)
        self._load_s = stint.load_s
        await stint.probe()
        stint.service.sessions.on_change(self._announcer.touch)
        await self._announcer.announce(PeerState.ONLINE)

    # moving -------------------------------------------------------------------------------------------------------

    @property
    def peer_id(self) -> str:
        return self._shop.node.peer_id

    @property
    def span(self) -> Span:
        return self._span

    async def board(self) -> tuple[Board, float]:
        """The swarm as its records say now, in this peer's precision, and the DHT time."""
        view = await self._refresher.refresh()
        source = self._shop.source
        board = Board.of(view, source.n_layers, precision=self._shop.precision, together=source.inseparable)
        return board, self._shop.node.directory.now()

    async def claim(self, span: Span) -> None:
        """Announce that it is on its way to `span`; it serves on where it is."""
        self._claim = span
        await self._announcer.announce(PeerState.JOINING)

    async def take_back(self) -> None:
        """Announce that it stays."""
        self._claim = None
        await self._announcer.announce(PeerState.ONLINE)

    async def move(self, decision: Decision) -> None:
        """As `go`; where nothing is served, sessions are not waited for."""
        drain_s = self._config.limits.drain_s
        await self._go(decision.span, drain_s if decision.tokens_per_s > 0 else min(drain_s, HOLE_DRAIN_S))

    async def go(self, span: Span) -> None:
        """Hand the sessions over, load `span` and serve there; back to the old one if it cannot be served.

        Raises:
            SwarmError: if neither can be served.
        """
        before = self._span
        await self._go(span, self._config.limits.drain_s)
        if self._span == span:
            logger.info("moved %s -> %s: told so by %s", before, span, self._config.layers_file)

    async def _go(self, span: Span, drain_s: float) -> None:
        stint = self._stint
        assert stint is not None, "a peer that moves serves"
        await stint.drain(drain_s)
        self._speed = stint.speed
        origin, self._claim = self._span, None
        held = self._end_stint(span)
        try:
            await self._serve_at(span, held)
        except SwarmError as error:
            logger.error("layers %s cannot be served (%s): back to %s", span, error, origin)
            await self._serve_at(origin, held if self._stint is None else self._end_stint(origin))
        else:
            self._shop.watch.tally.moves += 1

    def _end_stint(self, span: Span) -> Layers:
        """Give up what is served; what it has of `span`. The other layers go before new ones come."""
        stint, self._stint = self._stint, None
        assert stint is not None
        return {index: layer for index, layer in stint.end().items() if index in span}

    # leaving ------------------------------------------------------------------------------------------------------

    async def _leave(self, stop: StopSignals) -> None:
        drained = self._shop.tasks.create_task(self._drain())
        at_once = self._shop.tasks.create_task(stop.second.wait())
        await asyncio.wait({drained, at_once}, return_when=asyncio.FIRST_COMPLETED)
        for task in (drained, at_once):
            task.cancel()
        await self._withdraw()

    async def _withdraw(self) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(WITHDRAW_S):
                await self._announcer.withdraw()

    async def _drain(self) -> None:
        self._claim = None
        await self._announcer.announce(PeerState.DRAINING)
        if self._stint is not None:
            await self._stint.drain(self._config.limits.drain_s)

    # announcing ---------------------------------------------------------------------------------------------------

    def _record(self, state: PeerState, now: float, expires_at: float) -> PeerRecord:
        shop, span, stint = self._shop, self._claim or self._span, self._stint
        load = stint.service.load if stint is not None else None
        speed = stint.speed.or_else(self._speed) if stint is not None else self._speed
        return PeerRecord(
            protocol=PROTOCOL_VERSION,
            peer_id=self.peer_id,
            name=self._config.name or "",
            addresses=tuple(shop.node.addresses)[:16],
            model_uid=shop.source.uid,
            model_name=shop.source.short_name,
            layers=shop.source.n_layers,
            start=span.start,
            end=span.end,
            state=state,
            precision=shop.precision,
            batching=stint.offer.shard.batching if stint is not None else "",
            codings=CODINGS,
            seconds_per_layer=speed.decode_s,
            prefill_seconds_per_layer=speed.prefill_s,
            queue_s=load.queue_s if load is not None else 0.0,
            sessions=load.sessions if load is not None else 0,
            free_tokens=load.free_tokens if load is not None else 0,
            total_tokens=load.total_tokens if load is not None else shop.cache_tokens,
            pinned=self._config.layers is not None,
            load_s=self._load_s,
            computed_tokens=shop.watch.tally.computed_tokens,
            links={link.peer_id: link.rtt_s / 2 for link in shop.node.links()[:32] if link.rtt_s is not None},
            coordinate=self._position.published,
            upload_bytes_per_s=round(shop.node.bandwidth.upload.value),
            download_bytes_per_s=round(shop.node.bandwidth.download.value),
            version=VERSION,
            issued_at=now,
            expires_at=expires_at,
        )
