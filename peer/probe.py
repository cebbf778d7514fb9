"""The proof that a peer works: a real forward, by a client of its own, over the wire, before others are told of it.

The same steps measure how long a layer takes, unless that is known, and so does a prompt after them.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Sequence

import torch

from swarm.core.config import NodeConfig
from swarm.core.errors import NodeError, PeerError, RequestError
from swarm.peer.offer import Offer
from swarm.peer.speed import Speed
from swarm.security.identity import Identity
from swarm.shards.foreign_code import random_tensors
from swarm.wire.control_messages import Close, Open
from swarm.wire.link import Link
from swarm.wire.message import Message
from swarm.wire.node import Node
from swarm.wire.step_messages import Output, StepFailed, StepMessage
from swarm.wire.tensors import pack, unpack

PROMPT_TOKENS = 8
DECODE_STEPS = 4
LEAST_PREFILL, MOST_PREFILL = 32, 128  # tokens of the prompt that is timed
PREFILL_S = 2.0  # and how long that may take, at the speed of decoding
TIMEOUT_S = 120.0


class _ProbeClient:
    def __init__(self) -> None:
        self.answers: asyncio.Queue[tuple[Message, memoryview]] = asyncio.Queue()

    async def handle(self, link: Link, message: Message, payload: memoryview) -> None:
        self.answers.put_nowait((message, payload))


async def probe(peer: Node, offer: Offer, known: Speed | None = None, room: int = 0) -> Speed:
    """Run a few tokens through a peer that serves already; returns its speed, the wire included.

    Args:
        known: what it is from earlier measurements; then only one token is decoded.
        room: token rows that its cache has, which bounds the prompt that is timed.

    Raises:
        NodeError: if no right answer comes back.
    """
    client = _ProbeClient()
    node = await Node.start(
        NodeConfig(host="127.0.0.1", listen=False), Identity.ephemeral(), handler=client.handle
    )
    try:
        async with asyncio.timeout(TIMEOUT_S):
            link = await node.connect(peer.peer_id, peer.addresses)
            return await _run(link, client, offer, known, room)
    except (PeerError, RequestError, TimeoutError) as error:
        raise NodeError(
            f"this peer does not pass its own test over the wire: {error or 'no answer in time'}"
        ) from error
    finally:
        await node.stop()


async def _run(link: Link, client: _ProbeClient, offer: Offer, known: Speed | None, room: int) -> Speed:
    layers = len(offer.span)
    if known is not None:
        await _times(link, client, offer, (PROMPT_TOKENS, 1))
        return known
    decode_s = min((await _times(link, client, offer, (PROMPT_TOKENS, *[1] * DECODE_STEPS)))[1:])
    tokens = min(max(int(PREFILL_S / decode_s), LEAST_PREFILL), MOST_PREFILL)
    if tokens > room:
        return Speed(decode_s / layers)
    (prefill_s,) = await _times(link, client, offer, (tokens,))
    return Speed(decode_s / layers, prefill_s / tokens / layers)


async def _times(link: Link, client: _ProbeClient, offer: Offer, steps: Sequence[int]) -> list[float]:
    """Seconds for steps of so many tokens, in a session of their own."""
    session, span = secrets.token_bytes(16), offer.span
    await link.request(
        Open(
            request=0,
            session=session,
            model_uid=offer.model_uid,
            precision=offer.precision,
            start=span.start,
            end=span.end,
            tokens=sum(steps),
        ),
        timeout_s=TIMEOUT_S,
    )
    dice = torch.Generator().manual_seed(0)
    position, times = 0, []
    for number, new in enumerate(steps):
        started = time.monotonic()
        metas, payload = pack(random_tensors(offer.shard, span, dice, tokens=new).named())
        await link.send(StepMessage(session=session, number=number, start=position, tensors=metas), payload)
        _check(await client.answers.get(), number)
        times.append(time.monotonic() - started)
        position += new
    await link.request(Close(request=0, session=session), timeout_s=TIMEOUT_S)
    return times


def _check(received: tuple[Message, memoryview], number: int) -> None:
    """Raises:
    PeerError: if it is no answer to step `number`, or one with numbers that are not finite.
    """
    answer, data = received
    if isinstance(answer, StepFailed):
        raise PeerError(answer.message)
    if not isinstance(answer, Output) or answer.number != number:
        raise PeerError(f"a step was answered by {type(answer).__name__}")
    hidden = unpack(answer.tensors, data)["hidden"]
    if not bool(torch.isfinite(hidden).all()):
        raise PeerError(
            "the layers returned numbers that are not finite: are the weights damaged, or is float16 too narrow?"
        )
