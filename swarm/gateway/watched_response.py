"""A response that takes time to make, and is not made any more once its client has gone."""

from __future__ import annotations

import asyncio
import json
import logging
from typing import Any

from fastapi.responses import Response
from starlette.types import Receive, Scope, Send

from swarm.core.errors import SwarmError
from swarm.gateway.api_error import ApiError, api_error, unexpected
from swarm.gateway.door import Caller
from swarm.gateway.quiet_log import log_quietly

logger = logging.getLogger(__name__)

STREAM_HEADERS = {
    "content-type": "text/event-stream; charset=utf-8",
    "cache-control": "no-cache",
    "x-accel-buffering": "no",
}


class WatchedResponse(Response):
    """Made while it is being sent, by `answer` of a subclass.

    Args:
        caller: whose request it is.
    """

    def __init__(self, caller: Caller) -> None:
        self._caller = caller
        self.background = None
        self.status_code = 200

    async def answer(self, send: Send) -> None:
        """Send everything; cancelled when the client goes away."""
        raise NotImplementedError

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, unless the client goes away before.

        Raises:
            ApiError: nothing has been sent, and this is why.
        """
        with self._caller.visit():
            work = asyncio.create_task(self._guarded(send))
            gone = asyncio.create_task(_until_gone(receive))
            try:
                await asyncio.wait((work, gone), return_when=asyncio.FIRST_COMPLETED)
                if work.done():
                    work.result()
            finally:
                for task in (work, gone):
                    task.cancel()
                await asyncio.gather(work, gone, return_exceptions=True)

    async def _guarded(self, send: Send) -> None:
        try:
            await self.answer(send)
        except SwarmError as error:
            raise told(error) from error
        except Exception as error:
            log_quietly("a request", error)
            raise unexpected() from None


def told(error: SwarmError) -> ApiError:
    """What the client is told; what is not its fault is logged, too."""
    found = api_error(error)
    if found.status >= 500:
        logger.warning("%s: %s", type(error).__name__, error)
    return found


async def start(send: Send, headers: dict[str, str]) -> None:
    """Begin a response with these headers."""
    raw = [(name.encode("latin-1"), value.encode("latin-1", "replace")) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": 200, "headers": raw})


async def send_json(send: Send, document: dict[str, Any], headers: dict[str, str]) -> None:
    """A whole response."""
    body = json.dumps(document, ensure_ascii=False).encode()
    await start(send, {"content-type": "application/json", "content-length": str(len(body))} | headers)
    await send({"type": "http.response.body", "body": body, "more_body": False})


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
