"""Making the caches of new hops: what the hop before them kept is sent again, or what the client kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from swarm.client.hop import RemoteHop
from swarm.client.shared import Shared
from swarm.client.waiting import wait_for
from swarm.shards.history import History
from swarm.wire.step_messages import ReplayInfo, StepMessage
from swarm.wire.tensors import pack


@dataclass(frozen=True, slots=True)
class Past:
    """What is replayed into replacements: the client's inputs, the last step's number, positions a message (0: all)."""

    history: History
    number: int
    chunk: int


async def replay(shared: Shared, before: RemoteHop | None, new: Sequence[RemoteHop], past: Past) -> None:
    """Fill the caches of `new` hops, which follow each other after `before` (None: they begin the chain).

    Raises:
        PeerError: naming the peer that failed.
    """
    involved = new if before is None else (before, *new)
    expectation = shared.inbox.expect(new[-1], None, involved)
    try:
        if before is None:
            length = past.history.length
            await _replay_own(shared, new[0], new[-1].span.end, past)
        else:
            done = await before.replay(new[-1].span.end, past.chunk, shared.config.step_timeout_s)
            length = done.length
        if length:
            await wait_for(shared, expectation, length * past.history.rows)
            shared.stats.replayed_tokens += length
    finally:
        shared.inbox.forget(expectation)


async def _replay_own(shared: Shared, hop: RemoteHop, until: int, past: Past) -> None:
    length = past.history.length
    chunk = past.chunk or length
    for start in range(0, length, chunk):
        end = min(start + chunk, length)
        metas, payload = pack(past.history.slice(start, end).named(), shared.config.coding)
        info = ReplayInfo(until=until, last=end == length)
        step = StepMessage(session=hop.session, number=past.number, start=start, replay=info, tensors=metas)
        await hop.link.send(step, payload)
