"""Which models there are: one, in the form of the API that asks."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from fastapi import FastAPI, Request

from swarm.gateway.routes import Gateway


def add_models(app: FastAPI, gateway: Gateway) -> None:
    """`/v1/models` and `/v1/models/NAME`, of OpenAI and, for clients that send its version header, of Anthropic."""

    def entry(request: Request) -> dict[str, Any]:
        if _is_anthropic(request):
            created = datetime.fromtimestamp(gateway.created, UTC).isoformat()
            return {
                "type": "model",
                "id": gateway.name,
                "display_name": gateway.name,
                "created_at": created,
            }
        return {
            "id": gateway.name,
            "object": "model",
            "created": gateway.created,
            "owned_by": "layerswarm",
        }

    @app.get("/v1/models")
    async def models(request: Request) -> dict[str, Any]:
        """The model this gateway serves."""
        gateway.door.admit(request.headers)
        if _is_anthropic(request):
            ends = {"first_id": gateway.name, "last_id": gateway.name}
            return {"data": [entry(request)], "has_more": False} | ends
        return {"object": "list", "data": [entry(request)]}

    @app.get("/v1/models/{name:path}")
    async def model(name: str, request: Request) -> dict[str, Any]:
        """One model."""
        gateway.door.admit(request.headers)
        gateway.require_model(name)
        return entry(request)


def _is_anthropic(request: Request) -> bool:
    return "anthropic-version" in request.headers
