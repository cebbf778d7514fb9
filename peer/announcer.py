"""Keeps this peer's record on the DHT true: renewed at a third of its lease, sooner when something changed."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Protocol

from swarm.routing.announcement import encode
from swarm.routing.records import PeerRecord, PeerState, keys_of

logger = logging.getLogger(__name__)
SETTLE_S = 1.0


class Publisher(Protocol):
    """The part of `swarm.wire.directory.Directory` that is written to."""

    def now(self) -> float: ...

    async def publish(self, keys: Sequence[str], value: bytes, expires_at: float) -> bool: ...


class Announcer:
    """Publishes what `describe(state, now, expires_at)` returns.

    Args:
        lease_s: how long a record lives without renewal.
    """

    def __init__(
        self, directory: Publisher, describe: Callable[[PeerState, float, float], PeerRecord], lease_s: float
    ) -> None:
        self._directory = directory
        self._describe = describe
        self._lease_s = lease_s
        self._changed = asyncio.Event()
        self._state = PeerState.JOINING
        self._last_expiry = 0.0

    async def announce(self, state: PeerState) -> None:
        """Publish now, in this state; later renewals keep it."""
        self._state = state
        now = self._directory.now()
        # a record replaces an older one only if it expires later
        expires_at = max(now + self._lease_s - 0.5, self._last_expiry + 0.001)
        record = self._describe(state, now, min(expires_at, now + self._lease_s))
        self._last_expiry = record.expires_at
        if not await self._directory.publish(keys_of(record), encode(record), record.expires_at):
            logger.warning("the DHT did not take this peer's record; trying again")
            self.touch()

    async def withdraw(self) -> None:
        """Replace the record by one that says the peer has left."""
        await self.announce(PeerState.LEFT)

    def touch(self) -> None:
        """Something in the record changed: publish soon."""
        self._changed.set()

    async def renew(self) -> None:
        """Republish for ever: at a third of the lease, or `SETTLE_S` after a change; a failure is tried again."""
        while True:
            try:
                async with asyncio.timeout(self._lease_s / 3):
                    await self._changed.wait()
                    await asyncio.sleep(SETTLE_S)
            except TimeoutError:
                pass
            self._changed.clear()
            try:
                await self.announce(self._state)
            except Exception:
                logger.exception("this peer could not be announced; trying again")
                self.touch()
