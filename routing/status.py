"""What `swarm status` shows, computed; rendering is the command's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from swarm.core.span import Span
from swarm.routing.records import PeerRecord, PeerState
from swarm.routing.view import LayerCoverage, SwarmView, own_tokens_per_s


@dataclass(frozen=True, slots=True)
class PeerRow:
    """One peer. `tokens_per_s` is through its whole span, None while it has not measured itself."""

    peer_id: str
    name: str
    span: Span
    state: PeerState
    precision: str
    batching: str
    tokens_per_s: float | None
    queue_s: float
    upload_bytes_per_s: float
    download_bytes_per_s: float
    free_tokens: int
    total_tokens: int
    sessions: int
    version: str


@dataclass(frozen=True, slots=True)
class RejectedRow:
    """A peer of this model that is not used, and why."""

    peer_id: str
    name: str
    reason: str


@dataclass(frozen=True, slots=True)
class StatusReport:
    """The state of one model's swarm; peers from front to back.

    `complete` means that every layer has an online peer of one and the same precision. `weakest_layer` is None only
    while nobody is known.
    """

    model_uid: str
    model_name: str
    n_layers: int
    peers: tuple[PeerRow, ...]
    rejected: tuple[RejectedRow, ...]
    layers: tuple[LayerCoverage, ...]
    weakest_layer: LayerCoverage | None
    missing: tuple[Span, ...]
    complete: bool


def summarise(view: SwarmView) -> StatusReport:
    """Everything `swarm status` says about one model."""
    ordered = sorted(view.peers, key=lambda r: (r.start, r.end, r.peer_id))
    return StatusReport(
        model_uid=view.model_uid,
        model_name=min((r.model_name for r in view.peers if r.model_name), default=""),
        n_layers=view.n_layers,
        peers=tuple(_row(record) for record in ordered),
        rejected=tuple(RejectedRow(r.peer_id, r.name, reason) for r, reason in view.rejected),
        layers=tuple(view.coverage()),
        weakest_layer=view.weakest_layer(),
        missing=tuple(view.missing_layers()),
        complete=any(not view.missing_layers(precision=precision) for precision in view.precisions()),
    )


def _row(record: PeerRecord) -> PeerRow:
    rate = own_tokens_per_s(record)
    return PeerRow(
        peer_id=record.peer_id,
        name=record.name,
        span=record.span,
        state=record.state,
        precision=record.precision,
        batching=record.batching,
        tokens_per_s=rate,
        queue_s=record.queue_s,
        upload_bytes_per_s=record.upload_bytes_per_s,
        download_bytes_per_s=record.download_bytes_per_s,
        free_tokens=record.free_tokens,
        total_tokens=record.total_tokens,
        sessions=record.sessions,
        version=record.version,
    )


def as_json(reports: Sequence[StatusReport]) -> dict[str, Any]:
    """The reports with spans as `[start, end]`."""
    return {"models": [_plain(asdict(report)) for report in reports]}


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        if value.keys() == {"start", "end"}:
            return [value["start"], value["end"]]
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value
