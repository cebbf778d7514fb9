"""Cheapest way through layers when every layer may run on any of several peers.

Axes: L layers of the wanted span, P peers. The nodes of the graph are (peer, boundary): one pass from front to back
relaxes all of them (dynamic programming over a DAG), at most L * P^2 steps, vectorised over P^2.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from swarm.routing.links import Links

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]

MAX_SEARCHES = 64
# breaks ties in favour of fewer visits; far below anything that can be measured
_VISIT_S = 1e-9
_SKETCH_WIDTH = 16


@dataclass(frozen=True, slots=True)
class Visit:
    """Peer number `peer` runs layers `[start, end)`."""

    peer: int
    start: int
    end: int


Path = tuple[Visit, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Terrain:
    """What moving costs, in seconds.

    Attributes:
        serves: `[L, P]` whether the peer has the layer; each peer's layers are consecutive.
        layer_s: `[P]` one layer on this peer.
        queue_s: `[P]` waiting at this peer, once per visit.
        links: seconds from peer to peer.
        from_source_s, to_sink_s: `[P]` from the start and to the end of the path.
        visits: `[P]` how many visits this peer has room for, at least 1.
        enterable: `[L]` whether a path may change peers before this layer.
    """

    serves: Mask
    layer_s: Floats
    queue_s: Floats
    links: Links
    from_source_s: Floats
    to_sink_s: Floats
    visits: NDArray[np.int64]
    enterable: Mask

    def cost(self, path: Path) -> float:
        """What this path costs."""
        peers = [visit.peer for visit in path]
        moves = (
            self.from_source_s[peers[0]]
            + self.links.between(np.array(peers[:-1], np.int64), np.array(peers[1:], np.int64)).sum()
            + self.to_sink_s[peers[-1]]
        )
        layers = sum((visit.end - visit.start) * self.layer_s[visit.peer] for visit in path)
        return float(moves + self.queue_s[peers].sum() + layers)


def cheapest_path(terrain: Terrain) -> Path | None:
    """The cheapest path over all layers, or None if some layer has no peer.

    Coming back to a peer is a visit of its own. Paths that overfill a peer by that are excluded by branch and bound,
    so the answer is exact; after `MAX_SEARCHES` searches (only contrived swarms get there) the best valid one so far
    is taken.
    """
    first = _relaxed_path(terrain, terrain.serves)
    if first is None:
        return None
    best = _merged(terrain, first)
    order = 0
    queue = [(terrain.cost(first), order, terrain.serves, first)]
    while queue and order < MAX_SEARCHES:
        bound, _, serves, path = heapq.heappop(queue)
        if bound >= terrain.cost(best):
            break
        best = min(best, _merged(terrain, path), key=terrain.cost)
        for narrowed in _branches(serves, path, _overfilled(terrain, path)):
            order += 1
            relaxed = _relaxed_path(terrain, narrowed)
            if relaxed is not None:
                heapq.heappush(queue, (terrain.cost(relaxed), order, narrowed, relaxed))
    return best


def _relaxed_path(terrain: Terrain, serves: Mask) -> Path | None:
    """The cheapest path if every peer had room for any number of visits.

    A narrow first sweep finds some path; the second one is exact, and leaves out whatever cannot beat that path.
    """
    if not serves.any(axis=1).all():
        return None
    ahead_s = _least_ahead(terrain, serves)
    sketch = _sweep(terrain, serves, ahead_s, width=_SKETCH_WIDTH)
    slack_s = 2 * _VISIT_S * len(serves)
    ceiling_s = np.inf if sketch is None else terrain.cost(sketch) * (1 + 1e-9) + slack_s
    return _sweep(terrain, serves, ahead_s, width=len(terrain.layer_s), ceiling_s=ceiling_s)


def _sweep(
    terrain: Terrain, serves: Mask, ahead_s: Floats, *, width: int, ceiling_s: float = np.inf
) -> Path | None:
    """The cheapest path of at most `ceiling_s` among the `width` most promising peers of each boundary, if any."""
    entry_s = terrain.queue_s + _VISIT_S
    came_from = np.full(serves.shape, -1, dtype=np.int64)
    reached = np.flatnonzero(serves[0])
    at = (terrain.from_source_s + entry_s + terrain.layer_s)[reached]
    stayed = np.full(serves.shape[1], np.inf)
    for layer in range(1, len(serves)):
        kept = _promising(at + ahead_s[layer, reached], width, ceiling_s)
        if not kept.size:
            return None
        reached, at = reached[kept], at[kept]
        stayed[reached] = at
        soonest = np.minimum(stayed, at.min() + terrain.links.least_s + entry_s) + terrain.layer_s
        here = np.flatnonzero(serves[layer] & (soonest + ahead_s[layer + 1] <= ceiling_s))
        entered = np.full(here.size, np.inf)
        previous = np.zeros(here.size, dtype=np.int64)
        if terrain.enterable[layer]:
            previous, entered = terrain.links.nearest(reached, at, here)
            entered += entry_s[here]
        stays = stayed[here] <= entered
        came_from[layer, here] = np.where(stays, here, reached[previous])
        at = np.minimum(stayed[here], entered) + terrain.layer_s[here]
        stayed[reached] = np.inf
        reached = here
    if not reached.size:
        return None
    total = at + terrain.to_sink_s[reached]
    if not np.isfinite(total.min()):
        return None
    return _trace_back(came_from, int(reached[total.argmin()]))


def _least_ahead(terrain: Terrain, serves: Mask) -> Floats:
    """`[L + 1, P]` what the layers from here to the end cost at least, for who has just left this peer or stays.

    The true cost, if all links were as short as the shortest one.
    """
    ahead = np.empty((len(serves) + 1, serves.shape[1]))
    ahead[-1] = terrain.to_sink_s
    entry_s = terrain.queue_s + _VISIT_S
    for layer in range(len(serves) - 1, -1, -1):
        here = np.where(serves[layer], terrain.layer_s + ahead[layer + 1], np.inf)
        enters = (entry_s + here).min() + terrain.links.least_s if terrain.enterable[layer] else np.inf
        ahead[layer] = np.minimum(here, enters)
    return ahead


def _promising(expected_s: Floats, width: int, ceiling_s: float) -> NDArray[np.int64]:
    """Positions in `expected_s` of what may still be on the cheapest path, ascending."""
    kept = np.flatnonzero(expected_s <= ceiling_s)
    if kept.size > width:
        kept = np.sort(kept[np.argpartition(expected_s[kept], width)[:width]])
    return kept


def _trace_back(came_from: NDArray[np.int64], last: int) -> Path:
    peers = [last]
    for layer in range(len(came_from) - 1, 0, -1):
        peers.append(int(came_from[layer, peers[-1]]))
    visits: list[Visit] = []
    for layer, peer in enumerate(reversed(peers)):
        if visits and visits[-1].peer == peer:
            visits[-1] = Visit(peer, visits[-1].start, layer + 1)
        else:
            visits.append(Visit(peer, layer, layer + 1))
    return tuple(visits)


def _overfilled(terrain: Terrain, path: Path) -> int | None:
    peers = [visit.peer for visit in path]
    return next((peer for peer in peers if peers.count(peer) > terrain.visits[peer]), None)


def _merged(terrain: Terrain, path: Path) -> Path:
    """This path made valid: an overfilled peer also runs what lies between its visits (its layers are consecutive)."""
    while (peer := _overfilled(terrain, path)) is not None:
        at = [i for i, visit in enumerate(path) if visit.peer == peer]
        i, j = at[0], at[1]
        path = (*path[:i], Visit(peer, path[i].start, path[j].end), *path[j + 1 :])
    return path


def _branches(serves: Mask, path: Path, peer: int | None) -> Iterator[Mask]:
    """Narrower graphs that together hold every valid path, and none of which holds this overfilled one.

    A valid path either does not use the peer in one of the visits, or stays at it between two of them.
    """
    layers = [visit.start for visit in path if visit.peer == peer]
    for layer in layers:
        without = serves.copy()
        without[layer, peer] = False
        yield without
    for start, end in pairwise(layers):
        staying = serves.copy()
        staying[start : end + 1] = False
        staying[start : end + 1, peer] = serves[start : end + 1, peer]
        yield staying
