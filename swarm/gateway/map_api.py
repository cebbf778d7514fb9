"""The swarm as this gateway sees it: once as JSON, or as a stream of what changes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import asdict
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import Response
from starlette.datastructures import Headers
from starlette.types import Send

from swarm.core.errors import SwarmError
from swarm.gateway.dialect import sse
from swarm.gateway.door import Caller
from swarm.gateway.lookout import PERIOD_S
from swarm.gateway.map_changes import changes
from swarm.gateway.routes import Gateway
from swarm.gateway.sight import Sight
from swarm.gateway.watched_response import STREAM_HEADERS, WatchedResponse, start
from swarm.routing.status import as_json

_SILENCE_S = 15.0


def add_map(app: FastAPI, gateway: Gateway) -> None:
    """`/swarm/state` and `/swarm/events`; they ask for a key where the API does, and count against no limit of it."""

    @app.get("/swarm/state")
    async def state(request: Request) -> dict[str, Any]:
        """Who serves which layers, how fast and how busy; who fails; what this gateway does."""
        gateway.door.admit(request.headers)
        return map_json(gateway, await gateway.lookout.see())

    @app.get(
        "/swarm/events", response_class=Response, responses={200: {"content": {"text/event-stream": {}}}}
    )
    async def events(request: Request) -> Response:
        """The same as server-sent events: `map` at once and whenever it changes, `change` for what happened."""
        gateway.door.admit(request.headers)
        return MapStream(gateway, request.headers)


def map_json(gateway: Gateway, sight: Sight) -> dict[str, Any]:
    """What `/swarm/state` says."""
    outlook = sight.outlook
    report: dict[str, Any] = as_json([outlook.report])["models"][0]
    for peer in report["peers"]:
        peer["failing"] = outlook.failing.get(peer["peer_id"])
        peer["rtt_s"] = outlook.rtt_s.get(peer["peer_id"])
    model = {
        "name": gateway.name,
        "uid": report.pop("model_uid"),
        "layers": report.pop("n_layers"),
        "positions": gateway.prompter.positions,
        "chat": gateway.prompter.takes_messages,
    }
    del report["model_name"]
    return {"model": model, "gateway": asdict(sight.work)} | report


class MapStream(WatchedResponse):
    """Goes on until the client, its key or the gateway is gone."""

    def __init__(self, gateway: Gateway, headers: Headers) -> None:
        super().__init__(Caller())
        self._gateway = gateway
        self._asked_with = headers

    async def answer(self, send: Send) -> None:
        """Send what is to be seen, and then what changes."""
        with self._gateway.lookout.watching():
            await start(send, STREAM_HEADERS)
            async for part in self._parts():
                await send({"type": "http.response.body", "body": part, "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _parts(self) -> AsyncIterator[bytes]:
        loop = asyncio.get_running_loop()
        before: Sight | None = None
        shown: dict[str, Any] = {}
        said_s = loop.time()
        while not self._gateway.lookout.closed:
            try:
                self._gateway.door.admit(self._asked_with)
                sight = await self._gateway.lookout.see()
            except SwarmError:
                return
            parts = [sse(change.as_json(), "change") for change in changes(before or sight, sight)]
            drawn = map_json(self._gateway, sight)
            if drawn != shown:
                parts.insert(0, sse(drawn, "map"))
            elif loop.time() - said_s >= _SILENCE_S:
                parts.append(b": still here\n\n")
            for part in parts:
                said_s = loop.time()
                yield part
            before, shown = sight, drawn
            await asyncio.sleep(PERIOD_S)
