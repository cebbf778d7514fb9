"""Sees the swarm when somebody wants to look at it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager

from swarm.client.outlook import Outlook
from swarm.client.stats import ClientStats
from swarm.gateway.admission import Admission
from swarm.gateway.api_error import ApiError
from swarm.gateway.sight import Sight, Work

PERIOD_S = 0.5
MOST_WATCHERS = 64


class Lookout:
    """For one event loop. However many watch, the swarm is looked at once in `PERIOD_S`.

    Attributes:
        watchers: how many go on looking now.

    Args:
        look: begins to gather what is known of the swarm.
    """

    def __init__(
        self,
        look: Callable[[], Future[Outlook]],
        admission: Admission,
        stats: ClientStats,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._look = look
        self._admission = admission
        self._stats = stats
        self._clock = clock
        self._lock = asyncio.Lock()
        self._latest: Sight | None = None
        self._seen_s = 0.0
        self.watchers = 0

    async def see(self) -> Sight:
        """What is to be seen, at most `PERIOD_S` old.

        Raises:
            NodeError: the gateway has left the swarm.
        """
        async with self._lock:
            if self._latest is None or self._clock() - self._seen_s >= PERIOD_S:
                outlook = await asyncio.wrap_future(self._look())
                self._latest, self._seen_s = Sight(outlook, self._work()), self._clock()
            return self._latest

    @contextmanager
    def watching(self) -> Iterator[None]:
        """One who goes on looking.

        Raises:
            ApiError: 429, there are too many of them.
        """
        if self.watchers >= MOST_WATCHERS:
            text = f"{MOST_WATCHERS} watch the swarm through this gateway already"
            raise ApiError(429, text, code="too_many_watchers", retry_after_s=30)
        self.watchers += 1
        try:
            yield
        finally:
            self.watchers -= 1

    @property
    def closed(self) -> bool:
        """Whether the gateway is about to leave, so that nobody should go on watching."""
        return self._admission.closed

    def _work(self) -> Work:
        stats = self._stats
        return Work(
            self._admission.running,
            self._admission.waiting,
            stats.failovers,
            stats.handovers,
            stats.replayed_tokens,
        )
