"""What clients are told when something fails: the errors of this package as they are, of others only that they were."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from mcp.server.mcpserver.exceptions import ToolError

from swarm.core.errors import SwarmError
from swarm.gateway.quiet_log import log_quietly

UNEXPECTED = "the server failed; its log says where"


@asynccontextmanager
async def told() -> AsyncIterator[None]:
    """Turn what is raised inside into the error of a tool; nothing of a prompt gets into the log.

    Raises:
        ToolError: instead of every other error.
    """
    try:
        yield
    except SwarmError as error:
        raise ToolError(str(error)) from error
    except Exception as error:
        log_quietly("a tool", error)
        raise ToolError(UNEXPECTED) from None  # what it says may be a part of the prompt
