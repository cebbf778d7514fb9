"""What a session has behind it."""

from __future__ import annotations

from dataclasses import dataclass

from swarm.shards.cache import ShardCache
from swarm.shards.history import History


@dataclass(frozen=True, slots=True)
class Past:
    """What a session has behind it, made elsewhere: its cache and kept outputs, of `rows` rows and `length` positions.

    `is_masked` says whether a mask was ever given; it is that of the kept outputs.
    """

    cache: ShardCache
    kept: History
    rows: int
    length: int
    last_step: int
    is_masked: bool
