"""What placement knows of a swarm: who sits where, how fast, and whether it may move."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from swarm.core.span import Span
from swarm.routing.records import PeerRecord, PeerState
from swarm.routing.throughput import Floats, best_tokens_per_s, inside, tokens_per_s
from swarm.routing.view import STAYING, SwarmView

LOAD_S_PER_LAYER = 2.0  # where a peer does not say how long it takes


@dataclass(frozen=True, slots=True)
class Seat:
    """One peer's place.

    Attributes:
        speed: layers x tokens per second.
        ready: it serves already; otherwise it is on its way and loads.
        pinned: it never moves.
        sessions: live ones, which a move disturbs.
        load_s: seconds to load one layer.
    """

    peer_id: str
    span: Span
    speed: float
    ready: bool = True
    pinned: bool = False
    sessions: int = 0
    load_s: float = LOAD_S_PER_LAYER


@dataclass(frozen=True)
class Board:
    """All seats of a model of `n_layers` layers, in the order of peer ids: what every peer sees alike."""

    n_layers: int
    seats: tuple[Seat, ...]
    together: Span | None = None

    @classmethod
    def of(
        cls, view: SwarmView, n_layers: int, *, precision: str | None = None, together: Span | None = None
    ) -> Board:
        """The seats of a view: who joins or serves, in `precision` if one is given; who drains or left has none."""
        staying = (r for r in view.peers if r.state in STAYING and precision in (None, r.precision))
        return cls(n_layers, tuple(_seat(view, r) for r in staying if r.end <= n_layers), together)

    def find(self, peer_id: str) -> Seat | None:
        """The seat of this peer, or None."""
        return self._by_id.get(peer_id)

    @cached_property
    def _by_id(self) -> dict[str, Seat]:
        return {seat.peer_id: seat for seat in self.seats}

    @cached_property
    def grid(self) -> Floats:
        """`[L + 1, L + 1]` speed inside of each run of layers, see `throughput.inside`."""
        return inside([seat.span for seat in self.seats], [seat.speed for seat in self.seats], self.n_layers)

    @cached_property
    def tokens_per_s(self) -> float:
        """What this placement can serve."""
        return tokens_per_s(self.grid, self.best_tokens_per_s)

    @cached_property
    def best_tokens_per_s(self) -> float:
        """What no placement of these peers can exceed."""
        return best_tokens_per_s(
            [seat.speed for seat in self.seats], [len(seat.span) for seat in self.seats], self.n_layers
        )

    @cached_property
    def layer_rates(self) -> Floats:
        """`[L]` tokens per second of all peers of each layer if each ran its whole span for every token."""
        rates = np.array([seat.speed / len(seat.span) for seat in self.seats])
        found = self._sums(rates)
        found[self.counts() == 0] = 0.0  # not what rounding leaves
        return found

    def counts(self, *, ready: bool = False) -> NDArray[np.int64]:
        """`[L]` how many peers have each layer; with `ready`, only those that serve already."""
        counted = np.array([seat.ready or not ready for seat in self.seats], dtype=float)
        return self._sums(counted).round().astype(np.int64)

    def _sums(self, values: Floats) -> Floats:
        """`[L]` sums over the peers of each layer."""
        if not self.seats:
            return np.zeros(self.n_layers)
        starts, ends = self._edges
        size = self.n_layers + 1
        steps = np.bincount(starts, values, size) - np.bincount(ends, values, size)
        return np.asarray(steps.cumsum()[:-1])

    @cached_property
    def _edges(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        edges = np.array([(seat.span.start, seat.span.end) for seat in self.seats], dtype=np.int64)
        return edges[:, 0], edges[:, 1]

    def weakest(self) -> tuple[int, float]:
        """The layer with the least tokens per second, the front one of equals, and what it has."""
        layer = int(self.layer_rates.argmin())
        return layer, float(self.layer_rates[layer])

    def starts(self, length: int) -> NDArray[np.int64]:
        """Where a span of this length may start without dividing what must stay together."""
        starts = range(self.n_layers - length + 1)
        return np.array([s for s in starts if not Span(s, s + length).cuts(self.together)], dtype=np.int64)


def _seat(view: SwarmView, record: PeerRecord) -> Seat:
    return Seat(
        record.peer_id,
        record.span,
        view.tokens_per_s(record) * len(record.span),
        ready=record.state is PeerState.ONLINE,
        pinned=record.pinned,
        sessions=record.sessions,
        load_s=record.load_s or LOAD_S_PER_LAYER,
    )
