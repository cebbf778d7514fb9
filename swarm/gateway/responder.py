"""Sends an answer of the model, whole or as a stream."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

from starlette.types import Send

from swarm.core.errors import SwarmError
from swarm.gateway.answer import Answer
from swarm.gateway.ask import Ask
from swarm.gateway.chain_headers import chain_headers, chain_text
from swarm.gateway.desk import Desk
from swarm.gateway.dialect import Dialect, gathered
from swarm.gateway.door import Caller
from swarm.gateway.event_stream import EventStream
from swarm.gateway.origin import Origin
from swarm.gateway.watched_response import WatchedResponse, send_json, told
from swarm.routing.chain import Chain


class AnswerResponse(WatchedResponse):
    """Generates while it is being sent.

    Args:
        caller: whose request it is.
        make: what is asked for; called in a thread, because tokenizing takes time.
        silence_s: the longest time without a byte in a stream; None for an answer in one piece.
    """

    def __init__(
        self,
        desk: Desk,
        caller: Caller,
        origin: Origin,
        make: Callable[[], Ask],
        dialect: Dialect,
        silence_s: float | None,
    ) -> None:
        super().__init__(caller)
        self._origin = origin
        self._desk = desk
        self._make = make
        self._dialect = dialect
        self._silence_s = silence_s

    async def answer(self, send: Send) -> None:
        """Generate, and send what comes."""
        ask = await asyncio.to_thread(self._make)
        if self._silence_s is not None:
            await self._stream(ask, EventStream(send, self._silence_s))
            return
        async with self._desk.open(ask, self._origin) as answer:
            choices = await gathered(answer.events(), ask.continuations)
            await send_json(send, self._dialect.whole(choices, answer.usage), chain_headers(answer))

    async def _stream(self, ask: Ask, stream: EventStream) -> None:
        opening = list(self._dialect.opening(ask.prompt_tokens))
        async with stream.kept_alive():
            try:
                async with self._desk.open(ask, self._origin) as answer:
                    await answer.begin()
                    told_chain = None if stream.has_begun else answer.chain
                    await stream.begin(chain_headers(answer))
                    while opening:
                        await stream.put(opening.pop(0))
                    async for part in self._parts(answer, told_chain):
                        await stream.put(part)
            except SwarmError as error:
                if not stream.has_begun:
                    raise
                for part in (*opening, *self._dialect.failure(told(error))):
                    await stream.put(part)
        await stream.end()

    async def _parts(self, answer: Answer, told_chain: Chain | None) -> AsyncIterator[bytes]:
        """The events after the opening, and a comment for whoever watches when the chain is another than was told."""
        async for index, event in answer.events():
            if answer.chain is not None and answer.chain != told_chain:
                told_chain = answer.chain
                yield f": x-swarm-chain: {chain_text(told_chain)}\n\n".encode()
            for part in self._dialect.event(index, event):
                yield part
        for part in self._dialect.closing(answer.usage):
            yield part
