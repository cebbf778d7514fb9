"""Asks again and again whether this peer should serve other layers; the answer is `swarm.routing.balance`.

    wait --regular review, or urgent--> look --plan names this peer--> claim --still so--> move --> wait
                                          \\--it does not--> wait          \\--not any more--> take back --> wait

A claim is announced before anything is given up: of peers that go for one place all but one take it back, and nobody
leaves layers to a peer that is about to leave them, too.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from random import Random
from typing import Protocol

from swarm.core.config import BalanceConfig
from swarm.core.errors import SwarmError
from swarm.core.span import Span
from swarm.routing.balance import Goal, is_urgent, objection, review, review_delay_s
from swarm.routing.decision import Action, Decision
from swarm.routing.seats import Board

logger = logging.getLogger(__name__)
REGULAR_S = 30.0  # the mean pause between reviews that `review_delay_s` is made for
MOST_LOOKS_S = 5.0
REST_S = 300.0  # after a move that failed; twice as long after each further one
MOST_REST_S = 3600.0


class Movable(Protocol):
    """A peer that can go elsewhere."""

    @property
    def peer_id(self) -> str: ...

    @property
    def span(self) -> Span: ...

    async def board(self) -> tuple[Board, float]:
        """The swarm as its records say now, and the DHT time."""
        ...

    async def claim(self, span: Span) -> None:
        """Tell others that it is on its way to `span`; it serves on where it is."""
        ...

    async def take_back(self) -> None:
        """Tell others that it stays."""
        ...

    async def move(self, decision: Decision) -> None:
        """Hand its sessions over, load the decision's span and serve there; back to its old one if it cannot."""
        ...


class Balancer:
    """The loop of one peer. `sleep` and `dice` are given by tests."""

    def __init__(
        self,
        peer: Movable,
        config: BalanceConfig,
        *,
        dice: Random | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._peer = peer
        self._goal = Goal(replicas=config.replicas)
        self._pace = config.review_s / REGULAR_S
        self._settle_s = config.settle_s
        self._dice = dice or Random()
        self._sleep = sleep
        self._told = ""
        self._failed = 0

    async def run(self) -> None:
        """For ever; what fails in a review is tried again in the next one."""
        while True:
            board, now = await self._wait_for_review()
            if board.find(self._peer.peer_id) is None:
                continue  # its own announcement has not come round
            decision = review(board, self._peer.peer_id, self._goal, now)
            self._tell(decision)
            if decision.action is Action.MOVE and await self._holds(decision.span):
                await self._move(decision)

    async def _move(self, decision: Decision) -> None:
        """Move; a peer that had to go back rests, as every further try would cost its sessions as much."""
        await self._peer.move(decision)
        if self._peer.span == decision.span:
            self._failed = 0
            return
        rest_s = min(REST_S * 2**self._failed, MOST_REST_S)
        self._failed += 1
        logger.info("stays at %s for the next %.0f s at least", self._peer.span, rest_s)
        await self._sleep(rest_s)

    def _tell(self, decision: Decision) -> None:
        """Log a decision; that it stays for the same reason only once."""
        if (told := str(decision)) != self._told:
            logger.info("%s", told)
        self._told = told

    async def _wait_for_review(self) -> tuple[Board, float]:
        """The board at the next regular review, or soon after it has become urgent."""
        left_s = review_delay_s(self._dice.random()) * self._pace
        look_s = min(MOST_LOOKS_S, self._pace * MOST_LOOKS_S)
        hasty = False
        while True:
            pause_s = min(left_s, look_s)
            await self._sleep(pause_s)
            left_s -= pause_s
            try:
                board, now = await self._peer.board()
            except SwarmError as error:
                logger.info("the swarm could not be looked at: %s", error)
                continue
            if left_s <= 0:
                return board, now
            if not hasty and is_urgent(board, self._goal):
                hasty = True
                left_s = min(left_s, review_delay_s(self._dice.random(), hasty=True) * min(self._pace, 1.0))

    async def _holds(self, span: Span) -> bool:
        """Claim `span`; whether it is still right once everybody has heard of it. If not, it is taken back."""
        await self._peer.claim(span)
        await self._sleep(self._settle_s)
        try:
            board, _ = await self._peer.board()
            reason = objection(board, self._peer.peer_id, self._peer.span)
        except SwarmError as error:
            reason = str(error)
        if reason is None:
            return True
        logger.info("stays at %s after all: %s", self._peer.span, reason)
        await self._peer.take_back()
        return False
