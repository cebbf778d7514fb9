"""A response of server-sent events that is never silent for long."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.types import Send

from swarm.gateway.watched_response import STREAM_HEADERS, start

KEEP_ALIVE = b": keep-alive\n\n"


class EventStream:
    """For one response. Clients and proxies hang up where nothing comes, so that a comment comes in time.

    Args:
        silence_s: the longest time without a byte; after so long the response begins, with what is known then.

    Attributes:
        has_begun: whether the headers have left; an error is told as an event from then on.
    """

    def __init__(self, send: Send, silence_s: float) -> None:
        self._send = send
        self._silence_s = silence_s
        self._lock = asyncio.Lock()
        self._is_silent = True
        self.has_begun = False

    async def begin(self, headers: dict[str, str]) -> None:
        """Send the headers, if they have not left yet."""
        async with self._lock:
            if not self.has_begun:
                self.has_begun = True
                await start(self._send, STREAM_HEADERS | headers)

    async def put(self, part: bytes) -> None:
        """Send an event."""
        async with self._lock:
            self._is_silent = False
            await self._send({"type": "http.response.body", "body": part, "more_body": True})

    async def end(self) -> None:
        """Nothing more comes."""
        async with self._lock:
            await self._send({"type": "http.response.body", "body": b"", "more_body": False})

    @asynccontextmanager
    async def kept_alive(self) -> AsyncIterator[None]:
        """While the answer is being made."""
        speaking = asyncio.create_task(self._speak())
        try:
            yield
        finally:
            speaking.cancel()
            await asyncio.gather(speaking, return_exceptions=True)

    async def _speak(self) -> None:
        while True:
            await asyncio.sleep(self._silence_s)
            if self._is_silent:
                await self.begin({})
                await self.put(KEEP_ALIVE)
            self._is_silent = True
