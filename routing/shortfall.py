"""Why no chain exists, in one line that a user can act on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable

from swarm.core.span import Span
from swarm.routing.records import PeerRecord
from swarm.routing.view import SwarmView, spans_of

Objection = Callable[[PeerRecord], str]


def explain(view: SwarmView, span: Span, objection: Objection, tokens: int) -> str:
    """Name the layers of `span` that cannot be served and say why; `objection` is empty for usable peers."""
    reasons = {layer: _reason(view, layer, objection, tokens) for layer in range(span.start, span.end)}
    parts = [f"layers {part}{reasons[part.start]}" for part in _alike(reasons)]
    if not parts:
        parts = _per_precision(view, span, objection)
    return "; ".join(parts) + _rejected(view)


def _reason(view: SwarmView, layer: int, objection: Objection, tokens: int) -> str:
    """The rest of the sentence after `layers A:B`; empty where the layer has a usable peer."""
    here = [record for record in view.peers if layer in record.span]
    if not here:
        return " are served by nobody"
    objections = Counter(objection(record) for record in here)
    if "" in objections:
        return ""
    count = f"{len(here)} peer" + ("s" if len(here) > 1 else "")
    if len(objections) == 1:
        causes = ("all " if len(here) > 1 else "") + next(iter(objections))
    else:
        causes = ", ".join(f"{n} {cause}" for cause, n in sorted(objections.items()))
    room = f" ({tokens} token rows needed)" if "full" in objections else ""
    return f": {count}, {causes}{room}"


def _alike(reasons: dict[int, str]) -> list[Span]:
    """Maximal spans of layers that lack a peer for the same reason."""
    spans: list[Span] = []
    for reason in sorted({reason for reason in reasons.values() if reason}):
        spans += spans_of(layer for layer, other in reasons.items() if other == reason)
    return sorted(spans)


def _per_precision(view: SwarmView, span: Span, objection: Objection) -> list[str]:
    """Every layer has a peer, yet no one precision has them all."""
    parts = []
    for precision in view.precisions():
        usable = [r.span for r in view.peers if r.precision == precision and not objection(r)]
        lacking = _lacking(usable, span)
        if len(lacking) < len(span):
            parts.append(f"{precision} lacks layers {', '.join(map(str, spans_of(lacking)))}")
    return [f"no single precision covers layers {span}: " + ", ".join(parts)]


def _lacking(served: Iterable[Span], span: Span) -> list[int]:
    spans = list(served)
    return [layer for layer in range(span.start, span.end) if not any(layer in other for other in spans)]


def _rejected(view: SwarmView) -> str:
    if not view.rejected:
        return ""
    record, reason = view.rejected[0]
    more = f", and {len(view.rejected) - 1} more" if len(view.rejected) > 1 else ""
    return f" (not used: {record.name or record.peer_id} {reason}{more})"
