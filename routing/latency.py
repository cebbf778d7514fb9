"""How long a message takes between two nodes, from what was measured here and what peers publish."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from itertools import chain, repeat
from math import isfinite

import numpy as np

from swarm.routing.links import DenseLinks, Floats, Indices, Links, SparseLinks
from swarm.routing.records import MAX_LINKS, PeerRecord
from swarm.routing.vivaldi import Coordinate

DEFAULT_LINK_S = 0.05
SMOOTHING = 0.25
MAX_LINK_S = 3600.0
TRUSTED_ERROR = 0.5  # coordinates that are farther off predict nothing
MOST_PREDICTED = 256  # pairs are predicted one by one, which larger searches have no time for
MOST_DENSE = 2048  # pairs are written out, 32 MiB of them; beyond, only those of which something is known
_MICROSECOND_DIGITS = 6

_Pairs = tuple[Indices, Indices, Floats]  # source, sink, seconds


class LatencyTable:
    """One-way seconds between nodes, for directed pairs of peer ids.

    The best source known for a pair wins: own measurements in this direction, own measurements in the other one, what
    the two peers publish (the larger claim, so that nobody attracts traffic by understating), what their coordinates
    predict, the default.
    """

    def __init__(self, default_s: float = DEFAULT_LINK_S, smoothing: float = SMOOTHING) -> None:
        assert 0 <= default_s <= MAX_LINK_S
        assert 0 < smoothing <= 1
        self._default_s = default_s
        self._smoothing = smoothing
        self._measured: dict[tuple[str, str], float] = {}
        self._published: dict[str, dict[str, float]] = {}
        self._places: dict[str, Coordinate] = {}
        self._own: dict[str, Coordinate] = {}

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
        """Replace everything that peers published by the links and coordinates of these records."""
        known = list(records)
        self._published = {record.peer_id: dict(record.links) for record in known if record.links}
        places = {record.peer_id: Coordinate(*record.coordinate) for record in known if record.coordinate}
        self._places = {peer: place for peer, place in places.items() if place.error <= TRUSTED_ERROR}

    def locate(self, peer_id: str, place: Coordinate) -> None:
        """Say where a node is that publishes nothing: this one."""
        self._own = {peer_id: place} if place.error <= TRUSTED_ERROR else {}

    def retain(self, peer_ids: Collection[str]) -> None:
        """Forget pairs of which either end is not among `peer_ids` (which includes this node)."""
        kept = set(peer_ids)
        self._measured = {pair: s for pair, s in self._measured.items() if kept.issuperset(pair)}
        self._published = {peer: links for peer, links in self._published.items() if peer in kept}
        self._places = {peer: place for peer, place in self._places.items() if peer in kept}

    def link_s(self, source: str, sink: str) -> float:
        """Expected one-way seconds from `source` to `sink`; 0 to itself, the default where nothing is known."""
        known_s = self.known_s(source, sink)
        if known_s is not None:
            return known_s
        here, there = self._place(source), self._place(sink)
        return self._default_s if here is None or there is None else here.rtt_s(there) / 2

    def _place(self, peer_id: str) -> Coordinate | None:
        return self._own.get(peer_id) or self._places.get(peer_id)

    def known_s(self, source: str, sink: str) -> float | None:
        """Like `link_s`, but None where nobody has measured."""
        if source == sink:
            return 0.0
        for pair in ((source, sink), (sink, source)):
            if pair in self._measured:
                return self._measured[pair]
        claims = (self._published.get(source, {}).get(sink), self._published.get(sink, {}).get(source))
        return max((claim for claim in claims if claim is not None), default=None)

    def between(self, peers: Sequence[str]) -> Links:
        """`link_s` for all pairs of `peers` (all different), which are numbered in their order."""
        index = {peer: i for i, peer in enumerate(peers)}
        pairs = zip(self._from_own(index), self._claimed(index), self._observed(index), strict=True)
        sources, sinks, seconds = (np.concatenate(parts) for parts in pairs)
        if len(peers) > MOST_DENSE:
            return SparseLinks.of(len(peers), (sources, sinks, seconds), self._default_s)
        dense = self._predicted(index)
        dense[sources, sinks] = seconds
        np.fill_diagonal(dense, 0.0)  # whatever a peer claims about itself
        return DenseLinks(dense)

    def _predicted(self, index: dict[str, int]) -> Floats:
        """`[from, to]` what coordinates say, and the default where there are none."""
        seconds = np.full((len(index), len(index)), self._default_s)
        placed = [(i, self._places[peer]) for peer, i in index.items() if peer in self._places]
        if placed and len(index) <= MOST_PREDICTED:
            rows = np.array([i for i, _ in placed], np.int64)
            x, y, height = np.array([(p.x_s, p.y_s, p.height_s) for _, p in placed]).T
            flat = np.hypot(x[:, None] - x, y[:, None] - y)
            seconds[np.ix_(rows, rows)] = (flat + (height[:, None] + height)) / 2
        return seconds

    def _from_own(self, index: dict[str, int]) -> _Pairs:
        """What this node's own place predicts, in both directions."""
        own = [(index[peer], place) for peer, place in self._own.items() if peer in index]
        found = [
            (here, there, self._places[peer].rtt_s(place) / 2)
            for here, place in own
            for peer, there in index.items()
            if peer in self._places and there != here
        ]
        both = found + [(there, here, s) for here, there, s in found]
        sources, sinks, seconds = zip(*both, strict=True) if both else ((), (), ())
        return np.array(sources, np.int64), np.array(sinks, np.int64), np.array(seconds, float)

    def _claimed(self, index: dict[str, int]) -> _Pairs:
        """What is published, for both directions; of two claims about a pair the larger one comes last."""
        published = [(index[peer], links) for peer, links in self._published.items() if peer in index]
        count = sum(len(links) for _, links in published)
        sizes = np.array([len(links) for _, links in published], dtype=np.int64)
        source = np.repeat(np.array([i for i, _ in published], dtype=np.int64), sizes)
        names = chain.from_iterable(links for _, links in published)
        sink = np.fromiter(map(index.get, names, repeat(-1)), np.int64, count)
        seconds = np.fromiter(chain.from_iterable(links.values() for _, links in published), float, count)
        order = np.argsort(seconds)
        order = order[sink[order] >= 0]
        source, sink = source[order], sink[order]
        there, back = np.column_stack((source, sink)), np.column_stack((sink, source))
        return there.ravel(), back.ravel(), seconds[order].repeat(2)

    def _observed(self, index: dict[str, int]) -> _Pairs:
        """Own measurements, those in the other direction before those in this one."""
        own = [(index[a], index[b], s) for (a, b), s in self._measured.items() if a in index and b in index]
        both = [(b, a, s) for a, b, s in own] + own
        sources, sinks, seconds = zip(*both, strict=True) if both else ((), (), ())
        return np.array(sources, np.int64), np.array(sinks, np.int64), np.array(seconds, float)

    def snapshot(self, source: str, limit: int = MAX_LINKS) -> dict[str, float]:
        """Measured links from `source` for its record: the `limit` nearest, in whole microseconds, nearest first."""
        own = sorted((s, sink) for (origin, sink), s in self._measured.items() if origin == source)
        return {sink: round(s, _MICROSECOND_DIGITS) for s, sink in own[:limit]}


@dataclass(frozen=True, slots=True)
class KnownLinks:
    """What a table knows from measurements alone; 0 for other pairs."""

    table: LatencyTable

    def link_s(self, source: str, sink: str) -> float:
        """One-way seconds from `source` to `sink`."""
        return self.table.known_s(source, sink) or 0.0
