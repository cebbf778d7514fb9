"""Is the chain alive? Ready means that a real token came through it within the last minute."""

from __future__ import annotations

import asyncio
import logging

from swarm.core.errors import SwarmError
from swarm.gateway.desk import Desk
from swarm.gateway.meter import Meter

logger = logging.getLogger(__name__)

READY_S = 60.0
IDLE_S = 20.0
CHECK_S = 2.0


class Pulse:
    """When no request has brought a token for a while, generates one itself.

    Attributes:
        problem: why the last try brought none.
    """

    def __init__(self, desk: Desk, meter: Meter) -> None:
        self._desk = desk
        self._meter = meter
        self.problem: str | None = "no token has come yet"

    @property
    def ready(self) -> bool:
        """Whether a token came in the last minute."""
        last_s = self._meter.last_token_s
        return last_s is not None and self._meter.now_s - last_s <= READY_S

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            last_s = self._meter.last_token_s
            if last_s is None or self._meter.now_s - last_s > IDLE_S:
                await self._try()
            await asyncio.sleep(CHECK_S)

    async def _try(self) -> None:
        try:
            await self._desk.probe()
            self.problem = None
        except SwarmError as error:
            if self.problem is None:
                logger.warning("no token comes through the swarm: %s", error)
            self.problem = str(error)
