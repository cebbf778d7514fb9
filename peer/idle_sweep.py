"""Ends sessions whose clients have gone silent."""

from __future__ import annotations

import asyncio
import logging

from swarm.core.log_fields import session_fields
from swarm.peer.sessions import SessionTable
from swarm.peer.stepping import Stepping

logger = logging.getLogger(__name__)


async def sweep_idle(table: SessionTable, stepping: Stepping) -> None:
    """End sessions that nobody used for `idle_session_s`; runs until cancelled."""
    idle_session_s = table.limits.idle_session_s
    while True:
        await asyncio.sleep(min(idle_session_s / 4, 5.0))
        before_s = asyncio.get_running_loop().time() - idle_session_s
        table.prefixes.expire(before_s)
        for session in table.idle_since(before_s):
            logger.info("no step for %g s", idle_session_s, extra=session_fields(session.id))
            stepping.end(session)
