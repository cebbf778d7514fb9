"""How long a message takes between two nodes, from what was measured here and what peers publish."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from math import isfinite

import numpy as np
from numpy.typing import NDArray

from swarm.routing.records import MAX_LINKS, PeerRecord

DEFAULT_LINK_S = 0.05
SMOOTHING = 0.25
MAX_LINK_S = 3600.0
_MICROSECOND_DIGITS = 6


class LatencyTable:
    """One-way seconds between nodes, for directed pairs of peer ids.

    The best source known for a pair wins: own measurements in this direction, own measurements in the other one, what
    the two peers publish (the larger claim, so that nobody attracts traffic by understating), the default.
    """

    def __init__(self, default_s: float = DEFAULT_LINK_S, smoothing: float = SMOOTHING) -> None:
        assert 0 <= default_s <= MAX_LINK_S
        assert 0 < smoothing <= 1
        self._default_s = default_s
        self._smoothing = smoothing
        self._measured: dict[tuple[str, str], float] = {}
        self._published: dict[str, dict[str, float]] = {}

    def observe(self, source: str, sink: str, one_way_s: float) -> None:
        """Take one measurement into the moving average; impossible values and a node to itself are ignored."""
        if source == sink or not isfinite(one_way_s) or one_way_s < 0:
            return
        sample = min(one_way_s, MAX_LINK_S)
        known = self._measured.get((source, sink), sample)
        self._measured[source, sink] = known + self._smoothing * (sample - known)

    def observe_rtt(self, a: str, b: str, rtt_s: float) -> None:
        """Take a round trip between two nodes as half of it in each direction."""
        self.observe(a, b, rtt_s / 2)
        self.observe(b, a, rtt_s / 2)

    def publish(self, records: Iterable[PeerRecord]) -> None:
        """Replace everything that peers published by the links of these records."""
        self._published = {record.peer_id: dict(record.links) for record in records if record.links}

    def retain(self, peer_ids: Collection[str]) -> None:
        """Forget pairs of which either end is not among `peer_ids` (which includes this node)."""
        kept = set(peer_ids)
        self._measured = {pair: s for pair, s in self._measured.items() if kept.issuperset(pair)}
        self._published = {peer: links for peer, links in self._published.items() if peer in kept}

    def link_s(self, source: str, sink: str) -> float:
        """Expected one-way seconds from `source` to `sink`; 0 to itself, the default where nothing is known."""
        if source == sink:
            return 0.0
        for pair in ((source, sink), (sink, source)):
            if pair in self._measured:
                return self._measured[pair]
        claims = (self._published.get(source, {}).get(sink), self._published.get(sink, {}).get(source))
        return max((claim for claim in claims if claim is not None), default=self._default_s)

    def matrix(self, peers: Sequence[str]) -> NDArray[np.float64]:
        """`link_s` for all pairs at once: `[from, to]`, in the order of `peers` (all different)."""
        index = {peer: i for i, peer in enumerate(peers)}
        found = np.full((len(peers), len(peers)), -1.0)
        self._fill_published(found, index)
        self._fill_measured(found, index)
        found[found < 0] = self._default_s
        np.fill_diagonal(found, 0.0)
        return found

    def _fill_published(self, found: NDArray[np.float64], index: dict[str, int]) -> None:
        for peer, links in self._published.items():
            i = index.get(peer)
            if i is not None:
                known = [(index[other], s) for other, s in links.items() if other in index]
                for j, seconds in known:
                    found[i, j] = seconds
        np.maximum(found, found.T, out=found)

    def _fill_measured(self, found: NDArray[np.float64], index: dict[str, int]) -> None:
        for (source, sink), seconds in self._measured.items():
            i, j = index.get(source), index.get(sink)
            if i is not None and j is not None:
                found[i, j] = seconds
                if (sink, source) not in self._measured:
                    found[j, i] = seconds

    def snapshot(self, source: str, limit: int = MAX_LINKS) -> dict[str, float]:
        """Measured links from `source` for its record: the `limit` nearest, in whole microseconds, nearest first."""
        own = sorted((s, sink) for (origin, sink), s in self._measured.items() if origin == source)
        return {sink: round(s, _MICROSECOND_DIGITS) for s, sink in own[:limit]}
