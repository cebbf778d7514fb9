"""The state of a session that another peer brings, while it comes in."""

from __future__ import annotations

from dataclasses import dataclass, field

from swarm.core.errors import SwarmError
from swarm.peer.allowance import Allowance
from swarm.shards.session_state import StateWriter

MOST_BYTES_WAITING = 32 << 20


@dataclass(slots=True, eq=False)
class Arrival:
    """Only `donor` may bring it; `writer` holds what has come, `waiting` counts what the device has yet to take.

    After an `error`, the rest is dropped.
    """

    donor: str
    writer: StateWriter
    waiting: Allowance = field(default_factory=lambda: Allowance(MOST_BYTES_WAITING))
    error: SwarmError | None = None
