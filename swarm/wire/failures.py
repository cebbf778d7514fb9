"""Errors as they cross the wire: our error tree on both ends, a `kind` in between."""

from __future__ import annotations

from swarm.core.errors import (
    NextUnreachable,
    PeerBusy,
    PeerError,
    PeerIncompatible,
    RequestError,
    SessionBehind,
    SessionLost,
    SwarmError,
)
from swarm.wire.control_messages import Failed
from swarm.wire.message import FailureKind
from swarm.wire.strange_text import one_line

_MAX_TEXT = 2000
_KIND_OF: tuple[tuple[type[SwarmError], FailureKind], ...] = (
    (PeerBusy, "busy"),
    (SessionLost, "session_lost"),
    (SessionBehind, "behind"),
    (PeerIncompatible, "incompatible"),
    (RequestError, "request"),
    (NextUnreachable, "next_unreachable"),
)


def kind_of(error: SwarmError) -> FailureKind:
    """The failure kind that stands for `error` in `Failed` and `StepFailed`."""
    return next((kind for cls, kind in _KIND_OF if isinstance(error, cls)), "internal")


def failed_of(request: int, error: SwarmError) -> Failed:
    """The answer to a request that failed with `error`."""
    retry_after_s = error.retry_after_s if isinstance(error, PeerBusy) else 0.0
    return Failed(
        request=request, kind=kind_of(error), message=str(error)[:_MAX_TEXT], retry_after_s=retry_after_s
    )


def error_of(kind: FailureKind, message: str, peer_id: str, retry_after_s: float = 1.0) -> SwarmError:
    """The error to raise for a failure that `peer_id` reported."""
    message = one_line(message, _MAX_TEXT)
    match kind:
        case "busy":
            return PeerBusy(message, peer_id, retry_after_s)
        case "session_lost":
            return SessionLost(message, peer_id)
        case "behind":
            return SessionBehind(message, peer_id)
        case "incompatible":
            return PeerIncompatible(message, peer_id)
        case "request":
            return RequestError(message)
        case "next_unreachable":
            return NextUnreachable(message, peer_id)
        case _:
            return PeerError(message, peer_id)
