"""What all requests have around them: an id, and an answer even where the code is wrong."""

from __future__ import annotations

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from swarm.gateway.api_error import unexpected
from swarm.gateway.origin import Origin
from swarm.gateway.quiet_log import log_quietly


class Envelope:
    """ASGI middleware, the outermost: `scope["state"]["origin"]`, and the id in the headers of each response.

    OpenAI's client looks for it in `x-request-id`, Anthropic's in `request-id`. An error that nobody expected is a 500,
    and its text, which may be a part of somebody's prompt, stays out of the log.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        origin = Origin.of(Headers(scope=scope))
        scope.setdefault("state", {})["origin"] = origin
        name = origin.request_id.encode()
        has_begun = False

        async def signed(message: Message) -> None:
            nonlocal has_begun
            if message["type"] == "http.response.start":
                has_begun = True
                ids = [(b"x-request-id", name), (b"request-id", name)]
                message = {**message, "headers": [*message.get("headers", ()), *ids]}
            await send(message)

        try:
            await self._app(scope, receive, signed)
        except Exception as error:
            log_quietly("a request", error)
            if not has_begun:
                error_500 = unexpected()
                await JSONResponse(error_500.openai(), error_500.status)(scope, receive, signed)
