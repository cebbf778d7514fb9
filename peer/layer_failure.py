"""What a failure inside of the layers means for those who wait for the step."""

from __future__ import annotations

import logging

from swarm.core.errors import PeerBusy, PeerError, RequestError, SwarmError
from swarm.shards.out_of_memory import is_out_of_memory

logger = logging.getLogger(__name__)


def error_of_layers(error: BaseException) -> SwarmError:
    """Our error for whatever `ShardSession.apply` raised; the traceback of foreign ones goes to the log."""
    if isinstance(error, PeerError | RequestError):
        return error
    logger.error("a step failed in the layers", exc_info=error)
    if is_out_of_memory(error):
        return PeerBusy("out of memory in the layers: serve with a smaller --cache-tokens, or fewer --layers")
    lines = str(error).strip().splitlines()
    return PeerError(f"the layers failed: {type(error).__name__}: {lines[0] if lines else 'no reason given'}")
