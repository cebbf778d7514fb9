"""One session on this peer: whose it is, where its outputs go, and what of it is under way."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from swarm.core.config import Coding
from swarm.peer.allowance import Allowance
from swarm.peer.arrival import Arrival
from swarm.peer.awaited import Awaited
from swarm.shards.session import ShardSession
from swarm.wire.control_messages import NextHop
from swarm.wire.link import Link
from swarm.wire.step_messages import StepMessage

MOST_BYTES_INSIDE = 256 << 20


@dataclass(slots=True, eq=False)
class HopSession:
    """One session on this peer.

    Attributes:
        client: link to the client that owns it.
        previous: peer that may send steps besides the client.
        next: where outputs go, with the link to there; None sends them to the client.
        coding: how its activations come and go on the wire.
        reserved: token rows reserved in the pool.
        promised: positions there will be when every step that was accepted has run; `newest` is the last of them.
        acting: whether a control message changes or replays it now.
        reporting: whether a failure of the next hop is on its way to the client.
        leaving: held by whatever is sent on; a replay holds it from its first piece to its last.
        departing: outputs that wait for `leaving`.
        arrival: the state that another peer brings, until all of it is there.
        awaited: the next token, if it can be told; whoever takes a step takes it from here.
    """

    id: bytes
    client: Link
    shard: ShardSession
    previous: str | None
    next: NextHop | None
    next_link: Link | None
    reserved: int
    last_used_s: float
    coding: Coding | None = None
    inside: Allowance = field(default_factory=lambda: Allowance(MOST_BYTES_INSIDE))
    promised: int = 0
    newest: int = -1
    acting: bool = False
    reporting: bool = False
    leaving: asyncio.Lock = field(default_factory=asyncio.Lock)
    departing: int = 0
    arrival: Arrival | None = None
    awaited: Awaited | None = None
    closed: bool = False

    def take_awaited(self, message: StepMessage) -> Awaited | None:
        """The awaited token, if this message brings it and it follows on all that was accepted."""
        awaited, self.awaited = self.awaited, None
        if awaited is None or not awaited.is_in(message) or not self.shard.next.is_ready(awaited.start):
            return None
        has_room = awaited.start < self.reserved
        return awaited if has_room and message.number > self.newest else None

    @property
    def is_way_free(self) -> bool:
        """Whether an output may leave at once, because none is in front of it."""
        return not self.departing and not self.leaving.locked()
