"""How long a token takes for a caller somewhere in the world, through the chain that the shipped search finds.

Each hop costs its link, its layers, and a wait: a peer that is busy the part u of the time lets a step wait
u / (1 - u) times what its span takes.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from swarm.routing.shortest_path import Terrain, cheapest_path
from swarm.routing.throughput import Floats
from swarm.sim.world import SimPeer

MAX_BUSY = 0.95
_BASE_MS = 2.0  # one way, also to a neighbour


def token_s(
    peers: Sequence[SimPeer], callers: Sequence[tuple[float, float]], n_layers: int, busy: float
) -> list[float]:
    """Seconds per token for callers at these positions; empty where the peers do not cover all layers."""
    if not peers:
        return []
    starts, ends = np.array([(peer.span.start, peer.span.end) for peer in peers]).T
    layers = np.arange(n_layers)[:, None]
    serves = (starts <= layers) & (layers < ends)
    if not serves.any(axis=1).all():
        return []
    places = np.array([(peer.traits.x_ms, peer.traits.y_ms) for peer in peers])
    layer_s = 1.0 / np.array([peer.speed for peer in peers])
    waiting = min(busy, MAX_BUSY)
    links_s = _links_s(places, places)
    np.fill_diagonal(links_s, 0.0)
    found = []
    for caller in callers:
        to_caller = _links_s(np.array([caller]), places)[0]
        terrain = Terrain(
            serves=serves,
            layer_s=layer_s,
            queue_s=layer_s * (ends - starts) * waiting / (1 - waiting),
            links_s=links_s,
            from_source_s=to_caller,
            to_sink_s=to_caller,
            visits=np.full(len(peers), n_layers),
            enterable=np.ones(n_layers, dtype=bool),
        )
        path = cheapest_path(terrain)
        assert path is not None
        found.append(terrain.cost(path))
    return found


def _links_s(a: Floats, b: Floats) -> Floats:
    away = a[:, None, :] - b[None, :, :]
    return np.asarray((_BASE_MS + np.sqrt((away**2).sum(axis=2))) / 1000)
