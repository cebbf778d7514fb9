"""Seconds between peers, block by block: a search in a swarm of thousands looks at few of all the pairs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Indices = NDArray[np.int64]


class Links(Protocol):
    """One-way seconds between numbered peers, 0 from a peer to itself."""

    def block(self, rows: Indices, columns: Indices, /) -> Floats:
        """`[from, to]` for these peers."""


@dataclass(frozen=True, slots=True, eq=False)
class DenseLinks:
    """All pairs written out, `[from, to]`."""

    seconds: Floats

    def block(self, rows: Indices, columns: Indices) -> Floats:
        """See `Links`."""
        return np.asarray(self.seconds[np.ix_(rows, columns)])


@dataclass(frozen=True, slots=True, eq=False)
class SparseLinks:
    """A few known pairs among many of which only `default_s` is known.

    Attributes:
        first: `[P + 1]` where the known pairs from each peer begin.
        sinks, seconds: `[pairs]` to which peer, and how long.
    """

    default_s: float
    first: Indices
    sinks: Indices
    seconds: Floats

    @classmethod
    def of(cls, count: int, pairs: tuple[Indices, Indices, Floats], default_s: float) -> SparseLinks:
        """Links of `count` peers from known (source, sink, seconds); of several about one pair the last stands."""
        sources, sinks, seconds = pairs
        keys = sources * count + sinks
        order = np.argsort(keys, kind="stable")
        last = np.append(np.diff(keys[order]) != 0, True) if len(order) else np.zeros(0, dtype=bool)
        kept = order[last]
        first = np.searchsorted(sources[kept], np.arange(count + 1))
        return cls(default_s, first, sinks[kept], seconds[kept])

    def block(self, rows: Indices, columns: Indices) -> Floats:
        """See `Links`."""
        found = np.full((len(rows), len(columns)), self.default_s)
        place = np.full(len(self.first) - 1, -1)
        place[columns] = np.arange(len(columns))
        known = self.first[rows + 1] - self.first[rows]
        row = np.repeat(np.arange(len(rows)), known)
        pairs = np.arange(len(row)) + np.repeat(self.first[rows] - (known.cumsum() - known), known)
        column = place[self.sinks[pairs]]
        wanted = column >= 0
        found[row[wanted], column[wanted]] = self.seconds[pairs[wanted]]
        own = place[rows]
        found[own >= 0, own[own >= 0]] = 0.0
        return found
