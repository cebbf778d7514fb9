"""Refusals of the HTTP API: a status, and what each API's error body says."""

from __future__ import annotations

import math
from typing import Any

from swarm.core.errors import Interrupted, PeerBusy, PeerError, RequestError, SwarmError, SwarmUnavailable

_ANTHROPIC_KINDS = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
}
_OPENAI_KINDS = {
    401: "authentication_error",
    403: "permission_error",
    429: "rate_limit_error",
    503: "service_unavailable",
}


class ApiError(SwarmError):
    """An HTTP request that gets an error as its answer.

    Attributes:
        status: of the HTTP response.
        param: the field of the request that is wrong.
        code: what programs tell errors apart by.
        retry_after_s: when it makes sense to ask again.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.param = param
        self.code = code
        self.retry_after_s = retry_after_s

    @property
    def headers(self) -> dict[str, str]:
        """Retry-After in whole seconds, and for 401 how to authenticate."""
        found = (
            {} if self.retry_after_s is None else {"Retry-After": str(max(1, math.ceil(self.retry_after_s)))}
        )
        return found | ({"WWW-Authenticate": "Bearer"} if self.status == 401 else {})

    def openai(self) -> dict[str, Any]:
        """The body as the OpenAI API has it."""
        kind = _OPENAI_KINDS.get(
            self.status, "invalid_request_error" if self.status < 500 else "server_error"
        )
        return {"error": {"message": str(self), "type": kind, "param": self.param, "code": self.code}}

    def anthropic(self, request_id: str | None = None) -> dict[str, Any]:
        """The body as the Anthropic API has it."""
        fallback = "invalid_request_error" if self.status < 500 else "api_error"
        kind = _ANTHROPIC_KINDS.get(self.status, fallback)
        text = f"{self.param}: {self}" if self.param else str(self)
        return {"type": "error", "error": {"type": kind, "message": text}, "request_id": request_id}


def bad_request(message: str, param: str | None = None, code: str | None = None) -> ApiError:
    """400: what the client sent cannot be answered as it is."""
    return ApiError(400, message, param=param, code=code)


def api_error(error: SwarmError) -> ApiError:
    """What an HTTP client is told about an error of the swarm."""
    match error:
        case ApiError():
            return error
        case RequestError():
            return bad_request(str(error))
        case PeerBusy():
            return ApiError(503, str(error), code="swarm_busy", retry_after_s=error.retry_after_s)
        case SwarmUnavailable() | PeerError():
            return ApiError(503, str(error), code="swarm_unavailable", retry_after_s=5)
        case Interrupted():
            return ApiError(503, "the gateway is shutting down", code="shutting_down", retry_after_s=5)
        case _:
            return unexpected()


def unexpected() -> ApiError:
    """500: an error that nobody expected, which the log tells of."""
    return ApiError(500, "the gateway failed; its log says where", code="internal_error")
