"""The way of a step through this peer: in from a link, through the device, out to the next hop or the client."""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import dataclass, field

from torch import Tensor

from swarm.core.config import PeerLimits
from swarm.core.errors import PeerError, PeerUnreachable, SwarmError
from swarm.peer.offer import Offer
from swarm.peer.sessions import HopSession, SessionTable
from swarm.peer.step_check import check_step
from swarm.peer.worker import Finished, Worker
from swarm.shards.step import Step, StepTensors
from swarm.wire.failures import kind_of
from swarm.wire.link import Link
from swarm.wire.messages import (
    FailureKind,
    HopTiming,
    Output,
    Replayed,
    ReplayInfo,
    StepFailed,
    StepMessage,
)
from swarm.wire.tensors import pack, unpack

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Onward:
    """What a step message says besides its tensors and its session; see `StepMessage`."""

    number: int
    start: int
    select_rows: list[int] | None = None
    keep_last: int = 0
    replay: ReplayInfo | None = None
    trace: list[HopTiming] = field(default_factory=list)


class Stepping:
    """Takes steps from links, queues them, and sends their outputs on.

    Args:
        tasks: owner of the sends that are under way.
    """

    def __init__(
        self,
        own_id: str,
        offer: Offer,
        table: SessionTable,
        worker: Worker,
        limits: PeerLimits,
        tasks: asyncio.TaskGroup,
    ) -> None:
        self._own_id = own_id
        self._offer = offer
        self._table = table
        self._worker = worker
        self._limits = limits
        self._tasks = tasks

    async def receive(self, link: Link, message: StepMessage, payload: memoryview) -> None:
        """Check and queue one step; a step that cannot be taken is answered with `StepFailed` on the same link."""
        try:
            session = self._table.fed_by(link.peer_id, message.session)
            tensors = check_step(message, unpack(message.tensors, payload), self._offer, self._limits)
            self._table.grow(session, tensors.rows * (message.start + tensors.tokens))
        except SwarmError as error:
            await link.send(_failed(message.session, message.number, error))
            return
        session.last_used_s = time.monotonic()
        rows = None if message.select_rows is None else tuple(message.select_rows)
        self._worker.submit(session, message, Step(message.number, message.start, tensors, rows))

    async def failed_at_next(self, link: Link, failure: StepFailed) -> None:
        """The next hop could not take a step of ours: tell the client."""
        for session in self._table:
            hop = session.next
            if hop is not None and hop.session == failure.session and hop.peer == link.peer_id:
                report = failure.model_copy(
                    update={"session": session.id, "peer": failure.peer or link.peer_id}
                )
                await _send(session.client, report)

    def deliver(self, finished: Finished) -> None:
        """Called by the worker for every finished step."""
        if not finished.session.closed:
            self._tasks.create_task(self._deliver(finished))

    async def _deliver(self, finished: Finished) -> None:
        session, message = finished.session, finished.message
        session.last_used_s = time.monotonic()
        if finished.error is not None:
            await _send(session.client, _failed(session.id, message.number, finished.error))
            return
        assert finished.output is not None
        replay = message.replay
        if replay is not None and session.shard.span.end >= replay.until:
            if replay.last:
                shard = session.shard
                await _send(
                    session.client, Replayed(session=session.id, length=shard.length, step=shard.last_step)
                )
            return
        timing = HopTiming(peer=self._own_id, queue_s=finished.queue_s, compute_s=finished.compute_s)
        await self._pass_on(session, message, finished.output, [*message.trace, timing])

    async def _pass_on(
        self, session: HopSession, message: StepMessage, output: StepTensors, trace: list[HopTiming]
    ) -> None:
        if session.next is None:
            metas, payload = pack(self._for_client(session, message, output))
            answer = Output(session=session.id, number=message.number, trace=trace, tensors=metas)
            await _send(session.client, answer, payload)
        else:
            onward = Onward(
                message.number, message.start, message.select_rows, message.keep_last, message.replay, trace
            )
            await self.send_step(session, output, onward)

    def _for_client(
        self, session: HopSession, message: StepMessage, output: StepTensors
    ) -> dict[str, Tensor]:
        """After the last layer only the asked-for positions of the hidden state; before it, all a next hop needs."""
        if session.shard.span.end < self._offer.layers:
            return dict(output.named())
        keep = message.keep_last or output.tokens
        return {"hidden": output.hidden[:, -keep:]}

    async def send_step(self, session: HopSession, output: StepTensors, onward: Onward) -> None:
        """Send an output to the next hop; a broken link is reported to the client."""
        hop, link = session.next, session.next_link
        assert hop is not None
        assert link is not None
        metas, payload = pack(output.named())
        step = StepMessage(
            session=hop.session,
            number=onward.number,
            start=onward.start,
            select_rows=onward.select_rows,
            keep_last=onward.keep_last,
            replay=onward.replay,
            trace=onward.trace,
            tensors=metas,
        )
        try:
            await link.send(step, payload)
        except PeerUnreachable as error:
            if session.next is hop:  # not relinked meanwhile
                await _send(
                    session.client, _failed(session.id, onward.number, error, "next_unreachable", hop.peer)
                )


def _failed(
    session: bytes, number: int, error: SwarmError, kind: FailureKind | None = None, peer: str | None = None
) -> StepFailed:
    return StepFailed(
        session=session, number=number, kind=kind or kind_of(error), message=str(error)[:2000], peer=peer
    )


async def _send(
    link: Link, message: Output | Replayed | StepFailed, payload: list[memoryview] | tuple[()] = ()
) -> None:
    """Send to a client; a client that is gone needs no answer, its sessions end with its link."""
    try:
        await link.send(message, payload)
    except PeerError as error:
        logger.debug("client %s is gone: %s", link.peer_id, error)
