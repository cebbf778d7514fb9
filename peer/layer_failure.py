"""What a failure inside of the layers means for those who wait for the step."""

from __future__ import annotations

import logging

import torch

from swarm.core.errors import PeerBusy, PeerError, RequestError, SwarmError

logger = logging.getLogger(__name__)
_CPU_OUT_OF_MEMORY = "can't allocate memory"  # torch's CPU allocator raises a plain RuntimeError


def error_of_layers(error: BaseException) -> SwarmError:
    """Our error for whatever `ShardSession.apply` raised; the traceback of foreign ones goes to the log."""
    if isinstance(error, PeerError | RequestError):
        return error
    logger.error("a step failed in the layers", exc_info=error)
    if isinstance(error, torch.OutOfMemoryError | MemoryError) or _CPU_OUT_OF_MEMORY in str(error):
        return PeerBusy("out of memory in the layers: serve with a smaller --cache-tokens, or fewer --layers")
    lines = str(error).strip().splitlines()
    return PeerError(f"the layers failed: {type(error).__name__}: {lines[0] if lines else 'no reason given'}")
