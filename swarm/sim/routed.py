"""Chains that callers take in a simulated swarm, found by the shipped search at the shipped prices.

A peer that is busy the part u of the time lets a step wait u / (1 - u) times what its whole span takes.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from swarm.routing.chain import charge
from swarm.routing.links import DenseLinks
from swarm.routing.shortest_path import Path, Terrain, cheapest_path
from swarm.routing.throughput import Floats
from swarm.sim.world import SimPeer

Place = tuple[float, float]

MAX_BUSY = 0.95
_BASE_MS = 2.0  # one way, also to a neighbour
_ROUNDS = 2


class Roads:
    """Serving peers that cover all layers, as one caller after the other finds them."""

    def __init__(self, peers: Sequence[SimPeer], n_layers: int) -> None:
        starts, ends = np.array([(peer.span.start, peer.span.end) for peer in peers]).T
        layers = np.arange(n_layers)[:, None]
        self._serves = (starts <= layers) & (layers < ends)
        self._lengths = ends - starts
        self._places = np.array([(peer.traits.x_ms, peer.traits.y_ms) for peer in peers])
        self._layer_s = 1.0 / np.array([peer.speed for peer in peers])
        links_s = _links_s(self._places, self._places)
        np.fill_diagonal(links_s, 0.0)
        self._links = DenseLinks(links_s)

    def token_s(self, callers: Sequence[Place], busy: float) -> list[float]:
        """Seconds per token of callers at these places, where every peer is busy that part of the time."""
        everywhere = np.full(len(self._lengths), min(busy, MAX_BUSY))
        waits_s = self._waits_s(everywhere)
        found = []
        for caller in callers:
            priced, true = self._terrain(caller, waits_s), self._terrain(caller, waits_s, priced=False)
            path = cheapest_path(priced)
            assert path is not None
            found.append(true.cost(path))
        return found

    def served(self, callers: Sequence[Place], tokens_per_s: float) -> float:
        """Tokens per second that these callers get if each wants an equal part of `tokens_per_s`.

        Each takes the cheapest chain under the load of the others, and looks again a few times, as sessions do that
        re-plan; one whose chain leads over a peer with too much to do gets as much less.
        """
        each = tokens_per_s / len(callers)
        busy = np.zeros(len(self._lengths))
        paths: list[Path] = [() for _ in callers]
        for _ in range(_ROUNDS):
            for i, caller in enumerate(callers):
                self._use(busy, paths[i], -each)
                path = cheapest_path(self._terrain(caller, self._waits_s(busy)))
                assert path is not None
                self._use(busy, path, each)
                paths[i] = path
        return sum(each / max(1.0, float(max(busy[visit.peer] for visit in path))) for path in paths)

    def _use(self, busy: Floats, path: Path, tokens_per_s: float) -> None:
        for visit in path:
            busy[visit.peer] += tokens_per_s * (visit.end - visit.start) * self._layer_s[visit.peer]

    def _waits_s(self, busy: Floats) -> Floats:
        """What a step waits at each peer; beyond `MAX_BUSY`, ever more along the tangent."""
        within = np.minimum(busy, MAX_BUSY)
        beyond = np.maximum(busy - MAX_BUSY, 0.0) / (1 - MAX_BUSY) ** 2
        return np.asarray(self._layer_s * self._lengths * (within / (1 - within) + beyond))

    def _terrain(self, caller: Place, waits_s: Floats, *, priced: bool = True) -> Terrain:
        """What a chain costs this caller: at the prices of the search, or in true seconds."""
        to_caller = _links_s(np.array([caller]), self._places)[0]
        visit_s, layer_s = (
            charge(waits_s, self._layer_s, self._lengths) if priced else (waits_s, self._layer_s)
        )
        return Terrain(
            serves=self._serves,
            layer_s=layer_s,
            queue_s=visit_s,
            links=self._links,
            from_source_s=to_caller,
            to_sink_s=to_caller,
            visits=np.full(len(self._lengths), len(self._serves)),
            enterable=np.ones(len(self._serves), dtype=bool),
        )


def _links_s(a: Floats, b: Floats) -> Floats:
    away = a[:, None, :] - b[None, :, :]
    return np.asarray((_BASE_MS + np.sqrt((away**2).sum(axis=2))) / 1000)
