"""Seconds between peers, as a search asks for them: it looks at few of all the pairs in a swarm of thousands."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Indices = NDArray[np.int64]


class Links(Protocol):
    """One-way seconds between numbered peers, 0 from a peer to itself."""

    @property
    def least_s(self) -> float:
        """No two peers are nearer to each other than this."""

    def between(self, sources: Indices, sinks: Indices, /) -> Floats:
        """Seconds from each source to the sink at the same place."""

    def nearest(self, sources: Indices, at_s: Floats, sinks: Indices, /) -> tuple[Indices, Floats]:
        """For each sink the place in `sources` from which it is reached first, starting at `at_s`, and when that is.

        Sources are at least one, and ascending; of equal ones the first counts.
        """


@dataclass(frozen=True, eq=False)
class DenseLinks:
    """All pairs written out, `[from, to]`."""

    seconds: Floats

    @cached_property
    def least_s(self) -> float:
        """See `Links`."""
        return float(self.seconds[~np.eye(len(self.seconds), dtype=bool)].min(initial=np.inf))

    def between(self, sources: Indices, sinks: Indices) -> Floats:
        """See `Links`."""
        return np.asarray(self.seconds[sources, sinks])

    def nearest(self, sources: Indices, at_s: Floats, sinks: Indices) -> tuple[Indices, Floats]:
        """See `Links`."""
        through = self.seconds.take(
            sources[:, None] * len(self.seconds) + sinks
        )  # faster than by two indices
        through += at_s[:, None]
        place = through.argmin(axis=0)
        return place, np.asarray(through[place, np.arange(len(sinks))])


@dataclass(frozen=True, eq=False)
class SparseLinks:
    """A few known pairs among `count` peers; of all others only `default_s` is known.

    Attributes:
        keys: source x count + sink of the known pairs, ascending.
        seconds: how long these take.
    """

    count: int
    default_s: float
    keys: Indices
    seconds: Floats

    @classmethod
    def of(cls, count: int, pairs: tuple[Indices, Indices, Floats], default_s: float) -> SparseLinks:
        """Links from known (source, sink, seconds); of several about one pair the last stands."""
        itself = np.arange(count)
        keys = np.concatenate((pairs[0] * count + pairs[1], itself * count + itself))
        seconds = np.concatenate((pairs[2], np.zeros(count)))
        order = np.argsort(keys, kind="stable")
        last = order[np.append(np.diff(keys[order]) != 0, True)]
        return cls(count, default_s, keys[last], seconds[last])

    @cached_property
    def least_s(self) -> float:
        """See `Links`."""
        return float(self.seconds[self._sources != self._sinks].min(initial=self.default_s))

    def between(self, sources: Indices, sinks: Indices) -> Floats:
        """See `Links`."""
        known, pair = self._find(sources, sinks)
        return np.where(known, self.seconds[pair], self.default_s)

    def nearest(self, sources: Indices, at_s: Floats, sinks: Indices) -> tuple[Indices, Floats]:
        """See `Links`. Looks at the known pairs, and for each sink at the earliest source of which nothing is known."""
        place, when = self._nearest_unknown(sources, at_s, sinks)
        column = np.full(self.count, -1)
        column[sinks] = np.arange(len(sinks))
        rows, pairs = self._pairs_from(sources)
        to = column[self._sinks[pairs]]
        led = np.flatnonzero(to >= 0)
        rows, pairs, to = rows[led], pairs[led], to[led]
        known = at_s[rows] + self.seconds[pairs]
        soonest = np.full(len(sinks), np.inf)
        np.minimum.at(soonest, to, known)
        best = np.flatnonzero(known == soonest[to])[::-1]  # backwards, so that of equal ones the first stays
        first = np.full(len(sinks), len(sources))
        first[to[best]] = rows[best]
        sooner = (soonest < when) | ((soonest == when) & (first < place))
        return np.where(sooner, first, place), np.minimum(soonest, when)

    def _nearest_unknown(self, sources: Indices, at_s: Floats, sinks: Indices) -> tuple[Indices, Floats]:
        place, when = np.zeros(len(sinks), dtype=np.int64), np.full(len(sinks), np.inf)
        open_ = np.arange(len(sinks))
        for row in np.argsort(at_s, kind="stable"):
            known, _ = self._find(np.full(len(open_), sources[row]), sinks[open_])
            here = open_[~known]
            place[here], when[here] = row, at_s[row] + self.default_s
            open_ = open_[known]
            if not open_.size:
                break
        return place, when

    def _find(self, sources: Indices, sinks: Indices) -> tuple[NDArray[np.bool_], Indices]:
        """Which of these pairs are known, and where."""
        wanted = sources * self.count + sinks
        pair = np.minimum(np.searchsorted(self.keys, wanted), len(self.keys) - 1)
        return self.keys[pair] == wanted, pair

    def _pairs_from(self, sources: Indices) -> tuple[Indices, Indices]:
        """All known pairs from these sources: the place in `sources`, and the number of the pair."""
        first = self._first[sources]
        known = self._first[sources + 1] - first
        rows = np.repeat(np.arange(len(sources)), known)
        return rows, np.arange(len(rows)) + np.repeat(first - (known.cumsum() - known), known)

    @cached_property
    def _first(self) -> Indices:
        return np.searchsorted(self.keys, np.arange(self.count + 1) * self.count)

    @cached_property
    def _sources(self) -> Indices:
        return self.keys // self.count

    @cached_property
    def _sinks(self) -> Indices:
        return self.keys % self.count
