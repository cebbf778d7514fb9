"""Routes for those who watch the gateway: is it alive, is it ready, how does it do?"""

from __future__ import annotations

from fastapi import FastAPI
from fastapi.responses import JSONResponse, Response

from swarm.gateway.routes import Gateway
from swarm.peer.metrics_page import CONTENT_TYPE


def add_health(app: FastAPI, gateway: Gateway) -> None:
    """`/healthz`, `/readyz` and `/metrics`; none of them asks for a key."""

    @app.get("/healthz")
    async def alive() -> dict[str, str]:
        """The process answers."""
        return {"status": "alive"}

    @app.get("/readyz")
    async def ready() -> Response:
        """A token came through the chain in the last minute, and new requests are taken."""
        if gateway.desk.admission.closed:
            return JSONResponse({"status": "shutting down"}, 503)
        if not gateway.pulse.ready:
            return JSONResponse({"status": "not ready", "reason": gateway.pulse.problem}, 503)
        return JSONResponse({"status": "ready"})

    @app.get("/metrics")
    async def metrics() -> Response:
        """Metrics for Prometheus."""
        return Response(gateway.meter.exposition(), media_type=CONTENT_TYPE)
