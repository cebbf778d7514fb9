"""The HTTP application: its routes, and how errors look in each API."""

from __future__ import annotations

import logging
import time
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException

from swarm.core.version import VERSION
from swarm.gateway.api_error import ApiError
from swarm.gateway.body import refusal
from swarm.gateway.chat_api import ChatDialect, chat_ask
from swarm.gateway.chat_schema import ChatRequest
from swarm.gateway.desk import Desk
from swarm.gateway.prompts import Prompter
from swarm.gateway.responder import AnswerResponse

logger = logging.getLogger(__name__)


class Gateway:
    """What the routes share."""

    def __init__(self, model_name: str, prompter: Prompter, desk: Desk) -> None:
        self.model_name = model_name
        self.prompter = prompter
        self.desk = desk
        self.created = int(time.time())

    def require_model(self, name: str) -> None:
        """Refuse models that are not served here.

        Raises:
            ApiError: 404.
        """
        if name != self.model_name:
            text = f"the model {name[:100]!r} does not exist here; this gateway serves {self.model_name!r}"
            raise ApiError(404, text, param="model", code="model_not_found")


def build_app(gateway: Gateway) -> FastAPI:
    """The application around one gateway."""
    app = FastAPI(title="layerswarm gateway", version=VERSION, docs_url=None, redoc_url=None)
    _add_errors(app)
    _add_models(app, gateway)

    @app.post("/v1/chat/completions")
    async def chat(body: ChatRequest) -> Response:
        """OpenAI chat completions."""
        gateway.require_model(body.model)
        return AnswerResponse(
            gateway.desk,
            lambda: chat_ask(body, gateway.prompter),
            ChatDialect(body),
            streams=bool(body.stream),
        )

    return app


def _add_models(app: FastAPI, gateway: Gateway) -> None:
    def entry() -> dict[str, Any]:
        return {
            "id": gateway.model_name,
            "object": "model",
            "created": gateway.created,
            "owned_by": "layerswarm",
        }

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        """The model this gateway serves."""
        return {"object": "list", "data": [entry()]}

    @app.get("/v1/models/{name:path}")
    async def model(name: str) -> dict[str, Any]:
        """One model."""
        gateway.require_model(name)
        return entry()


def _add_errors(app: FastAPI) -> None:
    def respond(request: Request, error: ApiError) -> Response:
        is_anthropic = request.url.path.startswith("/v1/messages") or "anthropic-version" in request.headers
        body = error.anthropic() if is_anthropic else error.openai()
        return JSONResponse(body, error.status, headers=error.headers)

    @app.exception_handler(ApiError)
    async def refused(request: Request, error: ApiError) -> Response:
        return respond(request, error)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        return respond(request, refusal(list(error.errors())))

    @app.exception_handler(HTTPException)
    async def other(request: Request, error: HTTPException) -> Response:
        return respond(request, ApiError(error.status_code, str(error.detail)))
