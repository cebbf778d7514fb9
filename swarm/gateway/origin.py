"""Where a request comes from: its id, and the trace of its client that it belongs to."""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field

_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")
_PARENT = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(-.*)?")
_LONGEST_STATE = 512  # characters that everybody who forwards it has to keep


@dataclass(frozen=True, slots=True)
class Origin:
    """Of one request.

    Attributes:
        request_id: the client's own, or a new one; clients find it in the headers of the answer, operators in the log.
        traceparent: the span that caused the request, in the form of W3C's Trace Context.
        tracestate: what other systems of tracing have to say about it.
    """

    request_id: str = field(default_factory=lambda: f"req_{secrets.token_hex(12)}")
    traceparent: str | None = None
    tracestate: str | None = None

    @classmethod
    def of(cls, headers: Mapping[str, str]) -> Origin:
        """From the headers of a request; what has not the right form counts as missing."""
        given = headers.get("x-request-id", "")
        parent = headers.get("traceparent", "").strip()
        if _PARENT.fullmatch(parent) is None:
            parent = ""
        state = headers.get("tracestate", "")
        return cls(
            given if _ID.fullmatch(given) else cls().request_id,
            parent or None,
            state if parent and 0 < len(state) <= _LONGEST_STATE else None,
        )

    @property
    def trace_id(self) -> str | None:
        """The client's trace."""
        return self.traceparent.split("-")[1] if self.traceparent is not None else None
