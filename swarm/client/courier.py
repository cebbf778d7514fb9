"""Carries the pieces of a step through a chain: several in flight at once, their answers taken in order."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from swarm.client.answer_check import check_answer
from swarm.client.hop import RemoteHop
from swarm.client.inbox import Answer, Expectation
from swarm.client.pieces import Piece
from swarm.client.profile import StepProfile
from swarm.client.shared import Shared
from swarm.client.waiting import wait_for
from swarm.routing.chain import Hop
from swarm.shards.step import StepTensors
from swarm.wire.step_messages import StepMessage
from swarm.wire.tensors import pack

SPARE_FLIGHTS = 2


@dataclass(frozen=True, slots=True)
class _Flight:
    """A piece on its way through hops, with what is sent (`tensors`), and the answer that is expected."""

    piece: Piece
    tensors: StepTensors
    message: StepMessage
    payload: list[memoryview]
    expectation: Expectation


class Courier:
    """Sends steps for one session; every answer is checked. `profile` tells where the time of its decode steps went."""

    def __init__(self, shared: Shared) -> None:
        self._shared = shared
        self._packing_s = 0.0
        self.profile = StepProfile()

    async def carry(self, hops: Sequence[RemoteHop], pieces: Sequence[Piece]) -> list[Tensor]:
        """The wanted positions of each piece's last hidden state, `[B, wanted, H]`, for pieces that want any.

        Raises:
            PeerError: naming the peer that failed.
            RequestError: if a hop refused a piece.
        """
        clock = asyncio.get_running_loop()
        began_s, began_fine_s = clock.time(), time.perf_counter()  # uvloop's clock counts milliseconds
        if any(hop.relayed for hop in hops[:-1]):
            outputs = [await self._relay(hops, piece) for piece in pieces]
        else:
            outputs = await self._stream(hops, pieces)
        self._shared.deadline.observe(sum(piece.size for piece in pieces), clock.time() - began_s)
        if len(pieces) == 1 and pieces[0].tensors.tokens == 1:
            took_s = time.perf_counter() - began_fine_s
            for profile in (self._shared.profile, self.profile):
                profile.add(took_s, self._packing_s, self.profile.latest)
        wanted = zip(outputs, pieces, strict=True)
        return [output.hidden[:, -piece.wanted :] for output, piece in wanted if piece.wanted]

    async def _stream(self, hops: Sequence[RemoteHop], pieces: Sequence[Piece]) -> list[StepTensors]:
        """All pieces through hops that send to each other, a few of them in flight."""
        flights: deque[_Flight] = deque()
        outputs: list[StepTensors] = []
        try:
            for piece in pieces:
                if len(flights) >= len(hops) + SPARE_FLIGHTS:
                    outputs.append(await self._land(hops, flights))
                flights.append(self._flight(hops, piece, piece.tensors))
                await hops[0].link.send(flights[-1].message, flights[-1].payload)
            while flights:
                outputs.append(await self._land(hops, flights))
        finally:
            for flight in flights:
                self._shared.inbox.forget(flight.expectation)
        return outputs

    async def _relay(self, hops: Sequence[RemoteHop], piece: Piece) -> StepTensors:
        """One piece, carried by the client over the edges that peers cannot use themselves."""
        tensors, begin = piece.tensors, 0
        for index, hop in enumerate(hops):
            if hop.relayed or index == len(hops) - 1:
                flights = deque([self._flight(hops[begin : index + 1], piece, tensors, involved=hops)])
                try:
                    await hops[begin].link.send(flights[0].message, flights[0].payload)
                    tensors = await self._land(
                        hops[begin : index + 1], flights, is_end=index == len(hops) - 1
                    )
                finally:
                    for flight in flights:
                        self._shared.inbox.forget(flight.expectation)
                begin = index + 1
        return tensors

    def _flight(
        self,
        segment: Sequence[RemoteHop],
        piece: Piece,
        tensors: StepTensors,
        involved: Sequence[RemoteHop] | None = None,
    ) -> _Flight:
        began_s = time.perf_counter()
        metas, payload = pack(tensors.named(), self._shared.config.coding)
        self._packing_s = time.perf_counter() - began_s
        message = StepMessage(
            session=segment[0].session,
            number=piece.number,
            start=piece.start,
            select_rows=None if piece.select_rows is None else list(piece.select_rows),
            keep_last=max(piece.wanted, 1),
            tensors=metas,
        )
        expectation = self._shared.inbox.expect(segment[-1], piece.number, involved or segment, piece.start)
        return _Flight(piece, tensors, message, payload, expectation)

    async def _land(
        self, segment: Sequence[RemoteHop], flights: deque[_Flight], is_end: bool = True
    ) -> StepTensors:
        """The output of the flight that left first; it leaves the queue."""
        flight = flights[0]

        async def resend() -> None:
            for waiting in flights:
                await segment[0].link.send(waiting.message, waiting.payload)

        size = sum(waiting.piece.size for waiting in flights)
        answer = await wait_for(self._shared, flight.expectation, size, resend=resend)
        assert isinstance(answer, Answer)
        flights.popleft()
        self._shared.inbox.forget(flight.expectation)
        self.profile.latest = answer.trace
        self._observe(segment, flight.piece, answer)
        tokens = max(flight.piece.wanted, 1) if is_end else flight.tensors.tokens
        return check_answer(answer, flight.tensors, tokens, segment[-1].peer_id)

    def _observe(self, segment: Sequence[RemoteHop], piece: Piece, answer: Answer) -> None:
        if not answer.trace:
            return
        average_s = sum(timing.compute_s for timing in answer.trace) / len(answer.trace)
        self._shared.pace.observe(piece.size, average_s)
        for hop, timing in zip(segment, answer.trace, strict=False):
            if hop.peer_id == timing.peer:
                took_s = timing.queue_s + timing.compute_s + timing.serialise_s
                self._shared.navigator.took(Hop(hop.peer_id, hop.span), piece.size, took_s)
