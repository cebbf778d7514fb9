"""Keeps the view of one model up to date from the directory."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Protocol

from swarm.core.errors import PeerIncompatible, SwarmError
from swarm.routing.announcement import decode
from swarm.routing.records import BUCKETS, MAX_LEASE_S, PeerRecord, model_key
from swarm.routing.view import SwarmView, freshest

logger = logging.getLogger(__name__)
LEAST_PAUSE_S = 1.0  # however short the leases are: strangers choose them


class RecordSource(Protocol):
    """The part of `swarm.wire.directory.Directory` that is read from."""

    def now(self) -> float: ...

    async def fetch(self, keys: Sequence[str], /) -> list[bytes]: ...


class Refresher:
    """The view of one model, as fresh as its last refresh; for one event loop.

    A record counts until its lease ends even if a later read does not bring it (a hung DHT node costs a read some
    buckets); a peer that leaves says so by a newer record.
    """

    def __init__(
        self,
        directory: RecordSource,
        model_uid: str,
        *,
        protocol: int,
        period_s: float = 5.0,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._directory = directory
        self._model_uid = model_uid
        self._protocol = protocol
        self._period_s = period_s
        self._sleep = sleep
        self._keys = [model_key(model_uid, bucket) for bucket in range(BUCKETS)]
        self._known: list[PeerRecord] = []
        self._reading: asyncio.Task[SwarmView] | None = None

    def view(self) -> SwarmView:
        """What is known, judged now: expired leases are gone even without a refresh."""
        return SwarmView.of(
            self._known, now=self._directory.now(), model_uid=self._model_uid, protocol=self._protocol
        )

    @property
    def pause_s(self) -> float:
        """When to look again: after the period, or sooner, so that records which are renewed often do not run out."""
        lease_s = min((record.expires_at - record.issued_at for record in self._known), default=MAX_LEASE_S)
        return min(self._period_s, max(lease_s / 3, LEAST_PAUSE_S))

    async def refresh(self) -> SwarmView:
        """Read the directory and return the view after it; callers at the same time share one read."""
        if self._reading is None:
            self._reading = asyncio.create_task(self._read())
            self._reading.add_done_callback(self._read_ended)
        return await asyncio.shield(self._reading)

    async def run(self) -> None:
        """Refresh at once and then at every `pause_s`, for ever; where that fails, what is known stays."""
        while True:
            try:
                await self.refresh()
            except SwarmError as error:
                logger.info("the view of the swarm could not be refreshed: %s", error)
            await self._sleep(self.pause_s)

    async def close(self) -> None:
        """End a read that is under way."""
        if self._reading is not None:
            self._reading.cancel()
            await asyncio.wait([self._reading])

    async def _read(self) -> SwarmView:
        found = readable(await self._directory.fetch(self._keys))
        now = self._directory.now()
        self._known = [r for r in freshest([*self._known, *found]) if r.expires_at > now]
        return self.view()

    def _read_ended(self, task: asyncio.Task[SwarmView]) -> None:
        self._reading = None
        if not task.cancelled():
            task.exception()  # whoever waits has it; nobody may


def readable(bodies: Iterable[bytes]) -> list[PeerRecord]:
    """The records among these bodies; others are logged and left out."""
    records = []
    for body in bodies:
        try:
            records.append(decode(body))
        except PeerIncompatible as error:
            logger.debug("ignored an announcement: %s", error)
    return records
