"""What a session costs at a peer whose cache is nearly full: it may have to wait for others, and others for it."""

from __future__ import annotations

from swarm.routing.records import PeerRecord

STEEPNESS = 4  # half of what is free costs a sixteenth of what all of it does
ALL_OF_IT = 1.0  # a session that takes the last of the cache pays this many times the peer's whole span


def pressure_s(record: PeerRecord, layer_s: float, tokens: int) -> float:
    """Seconds that a session of `tokens` token rows is charged for room at this peer, like its queue.

    They rise with the part of the free cache that the session needs.
    """
    part = min(tokens / record.free_tokens, 1.0) if record.free_tokens else 1.0
    return ALL_OF_IT * float(part**STEEPNESS) * layer_s * len(record.span)
