"""Cheapest way through layers when every layer may run on any of several peers.

Axes: L layers of the wanted span, P peers. The nodes of the graph are (peer, boundary): one pass from front to back
relaxes all of them (dynamic programming over a DAG), at most L * P^2 steps, vectorised over P^2.
Nothing is pruned: links that nobody measured make every bound so low that it excludes next to no peer.
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
        queue_s: `[P]` waiting at this peer and for its own up- and downlink, once per visit.
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
    """The cheapest path if every peer had room for any number of visits, or None if there is none."""
    if not serves.any(axis=1).all():
        return None
    entry_s = terrain.queue_s + _VISIT_S
    came_from = np.full(serves.shape, -1, dtype=np.int64)
    here = np.flatnonzero(serves[0])
    at = (terrain.from_source_s + entry_s + terrain.layer_s)[here]
    staying = np.full(serves.shape[1], np.inf)
    for layer in range(1, len(serves)):
        before, here = here, np.flatnonzero(serves[layer])
        staying[before] = at
        begins, previous = staying[here], here
        staying[before] = np.inf
        if terrain.enterable[layer]:
            place, entered = terrain.links.nearest(before, at, here)
            entered += entry_s[here]
            previous = np.where(begins <= entered, here, before[place])
            begins = np.minimum(begins, entered)
        came_from[layer, here] = previous
        at = begins + terrain.layer_s[here]
    total = at + terrain.to_sink_s[here]
    if not np.isfinite(total.min()):
        return None
    return _trace_back(came_from, int(here[total.argmin()]))


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
