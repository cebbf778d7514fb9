"""What a record of the log is about, for logs that programs read: `logger.info(..., extra=session_fields(id))`."""

from __future__ import annotations


def session_fields(session: bytes, **others: object) -> dict[str, object]:
    """The session of one hop, under the name that peers, clients and traces use for it; and what else there is."""
    return {"session": session.hex(), **others}
