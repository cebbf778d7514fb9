"""The bytes of a record: what a peer signs and stores on the DHT, and how strangers' bytes are read again."""

from __future__ import annotations

from typing import Any

from pydantic import ValidationError

from swarm.core.errors import ConfigError, PeerIncompatible
from swarm.routing.records import MAX_RECORD_BYTES, PeerRecord, keys_of
from swarm.wire.directory import RecordClaims


def encode(record: PeerRecord) -> bytes:
    """The record as compact JSON of at most `MAX_RECORD_BYTES`, the same bytes for equal records.

    Where it would be longer, the links to the farthest peers are left out.

    Raises:
        ConfigError: if it is too long even without links.
    """
    body = record.model_dump_json().encode()
    if len(body) <= MAX_RECORD_BYTES:
        return body
    if not record.links:
        raise ConfigError(
            f"the announcement needs {len(body)} of {MAX_RECORD_BYTES} bytes: give fewer public addresses"
        )
    nearest = sorted(record.links, key=lambda peer: (record.links[peer], peer))[:-1]
    return encode(record.model_copy(update={"links": {peer: record.links[peer] for peer in nearest}}))


def decode(body: bytes) -> PeerRecord:
    """Read an announcement that anybody may have written.

    Raises:
        PeerIncompatible: if it is too long or not a complete, consistent record; nothing else is raised.
    """
    if len(body) > MAX_RECORD_BYTES:
        raise PeerIncompatible(
            f"an announcement of {len(body)} bytes is over the limit of {MAX_RECORD_BYTES}"
        )
    try:
        return PeerRecord.model_validate_json(body, strict=True)
    except ValidationError as exc:
        raise PeerIncompatible(f"malformed announcement: {_first_problem(exc)}") from exc


def claims(body: bytes) -> RecordClaims:
    """Whom an announcement is about, where it may stand and for how long: what the directory checks.

    Raises:
        PeerIncompatible: as `decode` does.
    """
    record = decode(body)
    return RecordClaims(record.peer_id, keys_of(record), record.issued_at, record.expires_at)


def _first_problem(exc: ValidationError) -> str:
    problem: Any = exc.errors(include_url=False, include_context=False, include_input=False)[0]
    place = ".".join(str(part) for part in problem["loc"])
    return f"{place}: {problem['msg']}" if place else str(problem["msg"])
