"""Somebody who talks to a peer of a lab message by message: a client, a neighbour, or a stranger."""

from __future__ import annotations

import asyncio
from typing import Any

import torch
from torch import Tensor

from swarm.core.errors import PeerError, RequestError
from swarm.shards.step import Step, StepTensors
from swarm.wire.control_messages import Close, Done, Inspect, NextHop, Open, Relink, Replay, Request
from swarm.wire.link import Link
from swarm.wire.message import Message
from swarm.wire.step_messages import StepMessage
from swarm.wire.tensors import pack, unpack
from tests.in_process import Lab
from tests.shard_lab import hidden

SESSION = b"s" * 16
OTHER = b"t" * 16


class Caller:
    """A node of the lab's meadow that keeps what it is told."""

    def __init__(self, lab: Lab, name: str, peer: str = "A") -> None:
        self.lab = lab
        self.name = name
        self.received: list[tuple[Message, bytearray]] = []
        self.node = lab.meadow.add(name, self._handle)
        self._peer = peer

    async def _handle(self, link: Link, message: Message, payload: memoryview) -> None:
        self.received.append((message, bytearray(payload)))

    @property
    def link(self) -> Link:
        """The link to the peer; dialled anew if it has ended."""
        return self.lab.do(self.node.connect(self._peer))

    def ask(self, message: Request, timeout_s: float = 60.0) -> Done:
        """Send a request and wait for its answer."""
        return self.lab.do(self.link.request(message, timeout_s))

    def open(self, session: bytes = SESSION, **changes: Any) -> Done:
        """Open a session over all layers of the peer."""
        return self.ask(self.opening(session, **changes))

    def opening(self, session: bytes = SESSION, **changes: Any) -> Open:
        offer = self.lab.peers[self._peer].offer
        values: dict[str, Any] = {
            "request": 0,
            "session": session,
            "model_uid": offer.model_uid,
            "precision": offer.precision,
            "start": offer.span.start,
            "end": offer.span.end,
            "tokens": 64,
        }
        return Open(**(values | changes))

    def close(self, session: bytes = SESSION) -> Done:
        return self.ask(Close(request=0, session=session))

    def inspect(self, session: bytes = SESSION) -> Done:
        return self.ask(Inspect(request=0, session=session))

    def relink(
        self, following: NextHop | None, session: bytes = SESSION, previous: str | None = None
    ) -> Done:
        return self.ask(Relink(request=0, session=session, previous=previous, next=following))

    def replay(self, session: bytes = SESSION, until: int = 6, chunk: int = 0) -> Done:
        return self.ask(Replay(request=0, session=session, until=until, chunk=chunk))

    def start(self, message: Request) -> asyncio.Task[Any]:
        """Send a request without waiting; the task returns its answer or its error."""
        return self.lab.tasks.create_task(outcome(self.link.request(message, 60.0)))

    def send(
        self, number: int, start: int, states: Tensor, session: bytes = SESSION, **changes: Any
    ) -> Message | None:
        """Send a step; the newest message that came back, if any did."""
        tensors = {"hidden": states} | changes.pop("tensors", {})
        metas, payload = pack(tensors)
        message = StepMessage(session=session, number=number, start=start, tensors=metas, **changes)
        return self.send_message(message, payload)

    def send_message(self, message: Message, payload: Any) -> Message | None:
        """Send any message; the newest one that came back, if any did."""
        before = len(self.received)
        self.lab.do(self.link.send(message, payload))
        self.lab.do(asyncio.sleep(0.3))  # a device may wait for the rest of a batch, as long as a batch takes
        self.lab.settle()
        return self.received[-1][0] if len(self.received) > before else None

    def output(self) -> Tensor:
        """The hidden state in the newest message."""
        message, payload = self.received[-1]
        metas: Any = getattr(message, "tensors", None)
        assert metas, f"no output but {message}"
        return unpack(metas, payload)["hidden"]


def states(tokens: int = 3, rows: int = 1, seed: int = 3) -> Tensor:
    """Random hidden states for the tiny models."""
    return hidden(tokens, rows=rows, seed=seed)


def alone(lab: Lab, peer: str, pieces: list[Tensor]) -> Tensor:
    """What a session of its own returns for the last of these pieces."""
    offer = lab.peers[peer].offer
    session = offer.shard.open(offer.span, rollback=True)
    start, output = 0, torch.empty(0)
    for number, piece in enumerate(pieces):
        output = session.apply(Step(number, start, StepTensors(piece))).hidden
        start += piece.shape[1]
    return output


def next_hop(peer: str, session: bytes = SESSION) -> NextHop:
    """A neighbour to send to."""
    return NextHop(peer=peer, session=session)


async def outcome(request: Any) -> Any:
    """What a request returns, or the error it ends with."""
    try:
        return await request
    except (PeerError, RequestError) as error:
        return error
