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
from swarm.gateway.watched_response import STREAM_HEADERS, WatchedResponse, send_json, start, told


class AnswerResponse(WatchedResponse):
    """Generates while it is being sent.

    Args:
        caller: whose request it is.
        make: what is asked for; called in a thread, because tokenizing takes time.
    """

    def __init__(
        self, desk: Desk, caller: Caller, make: Callable[[], Ask], dialect: Dialect, *, streams: bool
    ) -> None:
        super().__init__(caller)
        self._desk = desk
        self._make = make
        self._dialect = dialect
        self._streams = streams

    async def answer(self, send: Send) -> None:
        """Generate, and send what comes."""
        ask = await asyncio.to_thread(self._make)
        async with self._desk.open(ask) as answer:
            if self._streams:
                await answer.begin()
                await self._stream(answer, send)
            else:
                choices = await gathered(answer.events(), ask.continuations)
                await send_json(send, self._dialect.whole(choices, answer.usage), chain_headers(answer))

    async def _stream(self, answer: Answer, send: Send) -> None:
        await start(send, STREAM_HEADERS | chain_headers(answer))
        async for part in self._parts(answer):
            await send({"type": "http.response.body", "body": part, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _parts(self, answer: Answer) -> AsyncIterator[bytes]:
        """The events of the stream, and a comment for whoever watches each time that peers were replaced."""
        dialect, chain = self._dialect, answer.chain
        try:
            for part in dialect.opening(answer.usage.prompt_tokens):
                yield part
            async for index, event in answer.events():
                if answer.chain is not None and answer.chain != chain:
                    chain = answer.chain
                    yield f": x-swarm-chain: {chain_text(chain)}\n\n".encode()
                for part in dialect.event(index, event):
                    yield part
            for part in dialect.closing(answer.usage):
                yield part
        except SwarmError as error:
            for part in dialect.failure(told(error)):
                yield part
