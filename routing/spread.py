"""Which of the chains that are nearly the cheapest a session takes: not the same one as everybody else.

Two candidates are drawn, and the one whose peers have less to do is taken (power of two choices; Mitzenmacher 1996). A
candidate is the cheapest chain after every peer has been made dearer by a factor of its own, drawn from 1 to
1 + `TOLERANCE`. So no candidate costs more than 1 + `TOLERANCE` times the cheapest chain, whatever is drawn: at the
drawn prices it is at most as dear as that one, which is then at most so much dearer than it was.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from types import MappingProxyType

from swarm.core.span import Span
from swarm.routing.chain import Chain, ChainRequest, find_chain
from swarm.routing.records import PeerRecord
from swarm.routing.view import SwarmView

TOLERANCE = 0.1
UNKNOWN_LAYER_S = 1e-6  # keeps the number of sessions in the load of peers that are not measured
NOBODY: Mapping[str, int] = MappingProxyType({})


def pick_chain(
    view: SwarmView,
    span: Span,
    request: ChainRequest,
    draw: Callable[[], float],
    opened: Mapping[str, int] = NOBODY,
) -> Chain:
    """One of the cheapest chains, at most `TOLERANCE` dearer than `find_chain`'s.

    Args:
        draw: a number from [0, 1), another one at each call.
        opened: sessions on peers that their records do not count yet.

    Raises:
        SwarmUnavailable: as `find_chain`.
    """
    first, second = (find_chain(view, span, replace(request, dearer=_factors(view, draw))) for _ in range(2))
    return second if _load(second, view, opened) < _load(first, view, opened) else first


def _factors(view: SwarmView, draw: Callable[[], float]) -> dict[str, float]:
    return {record.peer_id: 1.0 + TOLERANCE * draw() for record in view.peers}


def _load(chain: Chain, view: SwarmView, opened: Mapping[str, int]) -> float:
    """Seconds that one step of every session takes on the chain's peers."""
    return sum(_busy_s(view.by_id[hop.peer_id], opened) for hop in chain.hops)


def _busy_s(record: PeerRecord, opened: Mapping[str, int]) -> float:
    sessions = record.sessions + opened.get(record.peer_id, 0)
    return sessions * len(record.span) * max(record.seconds_per_layer, UNKNOWN_LAYER_S)
