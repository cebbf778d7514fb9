"""The HTTP application: its routes, and how errors look in each API."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException

from swarm.core.version import VERSION
from swarm.gateway.api_error import ApiError, bad_request
from swarm.gateway.body import refusal
from swarm.gateway.body_limit import BodyLimit
from swarm.gateway.chat_api import ChatDialect, chat_ask
from swarm.gateway.chat_schema import ChatRequest
from swarm.gateway.completions_api import CompletionDialect, CompletionRequest, completion_ask
from swarm.gateway.embeddings_api import EmbeddingsRequest, EmbeddingsResponse
from swarm.gateway.envelope import Envelope
from swarm.gateway.health import add_health
from swarm.gateway.map_api import add_map
from swarm.gateway.messages_api import MessagesDialect, messages_ask, messages_plan
from swarm.gateway.messages_schema import CountRequest, MessagesRequest
from swarm.gateway.model_list import add_models
from swarm.gateway.responses_api import ResponsesDialect, responses_ask
from swarm.gateway.responses_schema import ResponsesRequest
from swarm.gateway.routes import Gateway
from swarm.gateway.web_page import add_page

REFUSALS: dict[int | str, dict[str, Any]] = {
    status: {"description": text}
    for status, text in (
        (400, "the request cannot be answered as it is"),
        (401, "the API key is missing or wrong"),
        (404, "this model is not served here"),
        (413, "the body is too large"),
        (429, "too many requests; Retry-After says when to ask again"),
        (503, "no chain of peers, or the gateway is shutting down"),
    )
}


def build_app(gateway: Gateway, max_body_bytes: int, allowed_origins: Sequence[str] = ()) -> FastAPI:
    """The application around one gateway, which pages of these origins may ask, too."""
    app = FastAPI(
        title="layerswarm gateway",
        version=VERSION,
        docs_url=None,
        redoc_url=None,
        responses=REFUSALS,
    )
    app.add_middleware(BodyLimit, most_bytes=max_body_bytes)
    app.add_middleware(Envelope)
    if allowed_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=allowed_origins,
            allow_methods=["GET", "POST"],
            allow_headers=["*"],
            expose_headers=["x-swarm-chain", "server-timing", "x-request-id", "retry-after"],
        )
    _add_errors(app, gateway)
    add_health(app, gateway)
    add_models(app, gateway)
    add_map(app, gateway)
    add_page(app)
    _add_openai(app, gateway)
    _add_anthropic(app, gateway)
    return app


def _add_openai(app: FastAPI, gateway: Gateway) -> None:
    @app.post("/v1/chat/completions", response_class=JSONResponse)
    async def chat(body: ChatRequest, request: Request) -> Response:
        """OpenAI's chat completions."""
        dialect = ChatDialect(body)
        return gateway.answer(request, body.model, partial(chat_ask, body), dialect, bool(body.stream))

    @app.post("/v1/completions", response_class=JSONResponse)
    async def completions(body: CompletionRequest, request: Request) -> Response:
        """OpenAI's completions."""
        dialect = CompletionDialect(body)
        return gateway.answer(request, body.model, partial(completion_ask, body), dialect, bool(body.stream))

    @app.post("/v1/responses", response_class=JSONResponse)
    async def responses(body: ResponsesRequest, request: Request) -> Response:
        """OpenAI's responses; the conversation is kept by the client."""
        dialect = ResponsesDialect(body)
        return gateway.answer(request, body.model, partial(responses_ask, body), dialect, bool(body.stream))

    @app.post("/v1/embeddings", response_class=JSONResponse)
    async def embeddings(body: EmbeddingsRequest, request: Request) -> Response:
        """OpenAI's embeddings, for models that come with a way to pool."""
        caller = gateway.door.admit(request.headers)
        gateway.require_model(body.model)
        if gateway.pooling is None:
            text = f"{gateway.name} writes text and makes no embeddings"
            raise bad_request(text, "model", "unsupported_model")
        encode = partial(gateway.desk.encode, gateway.pooling, origin=request.state.origin)
        return EmbeddingsResponse(caller, gateway.prompter, encode, body)


def _add_anthropic(app: FastAPI, gateway: Gateway) -> None:
    @app.post("/v1/messages", response_class=JSONResponse)
    async def messages(body: MessagesRequest, request: Request) -> Response:
        """Anthropic's messages."""
        dialect = MessagesDialect(body)
        return gateway.answer(request, body.model, partial(messages_ask, body), dialect, bool(body.stream))

    @app.post("/v1/messages/count_tokens")
    async def count_tokens(body: CountRequest, request: Request) -> dict[str, int]:
        """How many tokens a conversation has."""
        gateway.door.admit(request.headers)
        gateway.require_model(body.model)
        plan = await asyncio.to_thread(messages_plan, body, gateway.prompter)
        return {"input_tokens": len(plan.prompt)}


def _add_errors(app: FastAPI, gateway: Gateway) -> None:
    def respond(request: Request, error: ApiError) -> Response:
        gateway.meter.error(error.status)
        speaks_anthropic = (
            request.url.path.startswith("/v1/messages") or "anthropic-version" in request.headers
        )
        body = error.anthropic(request.state.origin.request_id) if speaks_anthropic else error.openai()
        return JSONResponse(body, error.status, headers=error.headers)

    @app.exception_handler(ApiError)
    async def refused(request: Request, error: ApiError) -> Response:
        return respond(request, error)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        gateway.door.admit(request.headers)
        return respond(request, refusal(list(error.errors())))

    @app.exception_handler(HTTPException)
    async def other(request: Request, error: HTTPException) -> Response:
        return respond(request, ApiError(error.status_code, str(error.detail)))
