"""What leaves a peer: outputs on their way to the next hop or the client, as messages, and how they are sent."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor

from swarm.core.errors import PeerError, PeerTimeout, RequestError, SwarmError
from swarm.peer.hop_session import HopSession
from swarm.peer.offer import Offer
from swarm.peer.worker import Finished
from swarm.shards.step import StepTensors
from swarm.wire.control_messages import Leaving
from swarm.wire.failures import kind_of
from swarm.wire.link import Link
from swarm.wire.message import MAX_TRACED, FailureKind, Message
from swarm.wire.step_messages import HopTiming, Output, Replayed, ReplayInfo, StepFailed, StepMessage
from swarm.wire.tensors import Packed, pack

logger = logging.getLogger(__name__)
SEND_S = 30.0
SLOWEST_BYTES_PER_S = 100_000


class Onward(NamedTuple):
    """What a replayed step says besides its tensors and its session; see `StepMessage`."""

    number: int
    start: int
    replay: ReplayInfo
    select_rows: None = None
    keep_last: int = 0


class Departure(NamedTuple):
    """A message with its payload, and the link it takes."""

    link: Link
    message: StepMessage | Output
    payload: Sequence[memoryview]

    def try_send(self) -> bool:
        """Send it now if the link takes it at once; an error is left to those who can wait and report."""
        try:
            return self.link.try_send(self.message, self.payload)
        except SwarmError:
            return False


def departure_of(own_id: str, offer: Offer, finished: Finished, output: StepTensors) -> Departure:
    """The output of a finished step, for the next hop or, where there is none, for the client."""
    session, message = finished.session, finished.message
    began_s = time.perf_counter()
    if finished.awaited is not None:
        packed = finished.awaited.packed(output.hidden)
    else:
        leaving = _for_client(offer, finished, output) if session.next is None else output.named()
        packed = pack(leaving, session.coding)
    timing = HopTiming(
        peer=own_id,
        queue_s=finished.queue_s,
        compute_s=finished.compute_s,
        serialise_s=time.perf_counter() - began_s,
    )
    trace = [*message.trace, timing][-MAX_TRACED:]
    if session.next is not None:
        return step_departure(session, packed, message, trace)
    metas, payload = packed
    answer = Output(
        session=session.id, number=message.number, start=message.start, trace=trace, tensors=metas
    )
    return Departure(session.client, answer, payload)


def step_departure(
    session: HopSession, packed: Packed, onward: Onward | StepMessage, trace: list[HopTiming]
) -> Departure:
    """A packed output for the next hop, otherwise as the message `onward` that brought the step here.

    Raises:
        RequestError: if there is none.
    """
    hop, link = session.next, session.next_link
    if hop is None or link is None:
        raise RequestError("there is no next hop to send to: relink first")
    metas, payload = packed
    step = StepMessage(
        session=hop.session,
        number=onward.number,
        start=onward.start,
        select_rows=onward.select_rows,
        keep_last=onward.keep_last,
        replay=onward.replay,
        trace=trace,
        tensors=metas,
    )
    return Departure(link, step, payload)


def _for_client(offer: Offer, finished: Finished, output: StepTensors) -> dict[str, Tensor]:
    """After the last layer only the asked-for positions of the hidden state; before it, all a next hop needs."""
    keep = finished.message.keep_last
    if finished.session.shard.span.end < offer.layers or (output.is_bare and not 0 < keep < output.tokens):
        return output.named()
    keep = keep or output.tokens
    return {"hidden": output.hidden[:, -keep:]}


def failed(
    session: bytes, number: int, error: SwarmError, kind: FailureKind | None = None, peer: str | None = None
) -> StepFailed:
    """The message that says that a step stopped here."""
    return StepFailed(
        session=session, number=number, kind=kind or kind_of(error), message=str(error)[:2000], peer=peer
    )


async def tell_client(
    link: Link, message: Output | Replayed | StepFailed | Leaving, payload: Sequence[memoryview] = ()
) -> None:
    """Send to a client; a client that is gone needs no answer, its sessions end with its link."""
    try:
        await send_in_time(link, message, payload)
    except PeerError as error:
        logger.debug("client %s is gone: %s", link.peer_id, error)


async def send_in_time(link: Link, message: Message, payload: Sequence[memoryview]) -> None:
    """Send, but close a link whose other end does not read: it holds memory here, and others wait behind it.

    Raises:
        PeerError: if the link is closed, or was closed for that.
    """
    allowed_s = SEND_S + sum(part.nbytes for part in payload) / SLOWEST_BYTES_PER_S
    try:
        async with asyncio.timeout(allowed_s):
            await link.send(message, payload)
    except TimeoutError as error:
        await link.close(f"nothing was read for {allowed_s:.0f} s")
        raise PeerTimeout(f"peer {link.peer_id} does not read what it is sent", link.peer_id) from error
