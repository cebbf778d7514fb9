"""Sends an answer, whole or as a stream, and drops it as soon as its client has gone."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Callable

from fastapi.responses import Response
from starlette.types import Receive, Scope, Send

from swarm.core.errors import SwarmError
from swarm.gateway.api_error import ApiError, api_error, unexpected
from swarm.gateway.ask import Ask
from swarm.gateway.chain_headers import chain_headers, chain_text
from swarm.gateway.desk import Answer, Desk
from swarm.gateway.dialect import Dialect, gathered
from swarm.gateway.door import Caller
from swarm.gateway.quiet_log import log_quietly

logger = logging.getLogger(__name__)


class AnswerResponse(Response):
    """Generates while it is being sent.

    Args:
        caller: whose request it is.
        make: what is asked for; called in a thread, because tokenizing takes time.
    """

    def __init__(
        self, desk: Desk, caller: Caller, make: Callable[[], Ask], dialect: Dialect, *, streams: bool
    ) -> None:
        self._desk = desk
        self._caller = caller
        self._make = make
        self._dialect = dialect
        self._streams = streams
        self.background = None
        self.status_code = 200

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, unless the client goes away before.

        Raises:
            ApiError: nothing has been sent, and this is why.
        """
        with self._caller.visit():
            await self._while_there(receive, send)

    async def _while_there(self, receive: Receive, send: Send) -> None:
        work = asyncio.create_task(self._answer(send))
        gone = asyncio.create_task(_until_gone(receive))
        try:
            await asyncio.wait((work, gone), return_when=asyncio.FIRST_COMPLETED)
            if work.done():
                work.result()
        finally:
            for task in (work, gone):
                task.cancel()
            await asyncio.gather(work, gone, return_exceptions=True)

    async def _answer(self, send: Send) -> None:
        try:
            ask = await asyncio.to_thread(self._make)
            async with self._desk.open(ask) as answer:
                if self._streams:
                    await answer.begin()
                    await self._stream(answer, send)
                else:
                    await self._whole(answer, ask, send)
        except SwarmError as error:
            raise _told(error) from error
        except Exception as error:
            log_quietly("a request", error)
            raise unexpected() from None

    async def _whole(self, answer: Answer, ask: Ask, send: Send) -> None:
        choices = await gathered(answer.events(), ask.continuations)
        body = json.dumps(self._dialect.whole(choices, answer.usage), ensure_ascii=False).encode()
        await _start(send, {"content-type": "application/json"} | chain_headers(answer))
        await send({"type": "http.response.body", "body": body, "more_body": False})

    async def _stream(self, answer: Answer, send: Send) -> None:
        headers = {"content-type": "text/event-stream; charset=utf-8", "cache-control": "no-cache"}
        await _start(send, headers | {"x-accel-buffering": "no"} | chain_headers(answer))
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
            for part in dialect.failure(_told(error)):
                yield part


def _told(error: SwarmError) -> ApiError:
    told = api_error(error)
    if told.status >= 500:
        logger.warning("%s: %s", type(error).__name__, error)
    return told


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _start(send: Send, headers: dict[str, str]) -> None:
    raw = [(name.encode("latin-1"), value.encode("latin-1", "replace")) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": 200, "headers": raw})
