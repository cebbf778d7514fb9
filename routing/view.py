"""What one node knows about the peers of one model at one moment: the input of every routing decision."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from math import fsum
from statistics import median_low

from swarm.core.span import Span
from swarm.routing.records import MAX_CLOCK_SKEW_S, PeerRecord, PeerState

ONLINE = frozenset({PeerState.ONLINE})
STAYING = frozenset({PeerState.JOINING, PeerState.ONLINE})
MAX_TOKENS_PER_S = 1e9


@dataclass(frozen=True, slots=True)
class LayerCoverage:
    """How one layer is served: by how many peers, with how many tokens per second together."""

    layer: int
    peers: int
    tokens_per_s: float


@dataclass(frozen=True)
class SwarmView:
    """The living peers of one model, freshest record each, ordered by peer id.

    `n_layers` is 0 while nobody is known. `rejected` are living peers that cannot be used, each with the reason.
    """

    model_uid: str
    peers: tuple[PeerRecord, ...] = ()
    rejected: tuple[tuple[PeerRecord, str], ...] = ()
    n_layers: int = 0

    @classmethod
    def of(cls, records: Iterable[PeerRecord], *, now: float, model_uid: str, protocol: int) -> SwarmView:
        """Judge records (any order, any models, several per peer) at the DHT time `now`.

        A peer counts with its freshest record alone: one that left or moved to another model is gone, whatever
        older records say.
        """
        living = [r for r in freshest(records) if r.model_uid == model_uid and _is_alive(r, now)]
        n_layers = _agreed_layers(r for r in living if r.protocol == protocol)
        judged = [(r, _objection(r, now, protocol, n_layers)) for r in living]
        return cls(
            model_uid=model_uid,
            peers=tuple(r for r, reason in judged if not reason),
            rejected=tuple((r, reason) for r, reason in judged if reason),
            n_layers=n_layers,
        )

    @cached_property
    def by_id(self) -> dict[str, PeerRecord]:
        """The usable peers by peer id."""
        return {record.peer_id: record for record in self.peers}

    def get(self, peer_id: str) -> PeerRecord | None:
        """The record of a usable peer, or None."""
        return self.by_id.get(peer_id)

    def precisions(self) -> tuple[str, ...]:
        """The precisions in which peers serve, in alphabetical order."""
        return tuple(sorted({record.precision for record in self.peers}))

    def tokens_per_s(self, record: PeerRecord) -> float:
        """Tokens per second through this peer's whole span; unmeasured peers count as the median one, or as 1."""
        own = own_tokens_per_s(record)
        return self._typical_tokens_per_s if own is None else own

    @cached_property
    def _typical_tokens_per_s(self) -> float:
        known = [rate for rate in map(own_tokens_per_s, self.peers) if rate is not None]
        return median_low(known) if known else 1.0

    def coverage(
        self,
        n_layers: int | None = None,
        *,
        states: frozenset[PeerState] = ONLINE,
        precision: str | None = None,
    ) -> list[LayerCoverage]:
        """One entry per layer, counting the peers in one of `states` (and of `precision`, if given)."""
        total = self.n_layers if n_layers is None else n_layers
        rates: list[list[float]] = [[] for _ in range(total)]
        for record in self.peers:
            if record.state in states and precision in (None, record.precision):
                rate = self.tokens_per_s(record)
                for layer in range(record.start, min(record.end, total)):
                    rates[layer].append(rate)
        return [LayerCoverage(layer, len(here), fsum(here)) for layer, here in enumerate(rates)]

    def missing_layers(self, n_layers: int | None = None, *, precision: str | None = None) -> list[Span]:
        """The layers that no online peer serves, as spans from front to back."""
        return spans_of(c.layer for c in self.coverage(n_layers, precision=precision) if not c.peers)

    def weakest_layer(self, n_layers: int | None = None) -> LayerCoverage | None:
        """The layer with the least throughput, the front one of equals; None while the depth is unknown."""
        return min(self.coverage(n_layers), key=lambda c: (c.tokens_per_s, c.layer), default=None)


def spans_of(layers: Iterable[int]) -> list[Span]:
    """Ascending layer numbers as maximal spans."""
    found: list[Span] = []
    for layer in layers:
        if found and found[-1].end == layer:
            found[-1] = Span(found[-1].start, layer + 1)
        else:
            found.append(Span(layer, layer + 1))
    return found


def freshest(records: Iterable[PeerRecord]) -> list[PeerRecord]:
    """The latest record of each peer, by peer id, whatever the order of `records`."""
    best: dict[str, PeerRecord] = {}
    for record in records:
        known = best.get(record.peer_id)
        if known is None or _supersedes(record, known):
            best[record.peer_id] = record
    return [best[peer_id] for peer_id in sorted(best)]


def _supersedes(record: PeerRecord, known: PeerRecord) -> bool:
    if record.issued_at != known.issued_at:
        return record.issued_at > known.issued_at
    # of equally old records the one that promises less wins, so that the order of arrival never matters
    return record != known and _modesty(record) > _modesty(known)


def _modesty(record: PeerRecord) -> tuple[bool, float, str]:
    return record.state is PeerState.LEFT, -record.expires_at, record.model_dump_json()


def _is_alive(record: PeerRecord, now: float) -> bool:
    return record.expires_at > now and record.state is not PeerState.LEFT


def _agreed_layers(records: Iterable[PeerRecord]) -> int:
    votes = Counter(record.layers for record in records)
    return min(votes, key=lambda layers: (-votes[layers], layers), default=0)


def _objection(record: PeerRecord, now: float, protocol: int, n_layers: int) -> str:
    if record.protocol != protocol:
        return f"speaks protocol version {record.protocol}, this node speaks {protocol}"
    if record.issued_at > now + MAX_CLOCK_SKEW_S:
        return f"has a clock {record.issued_at - now:.0f} s ahead of this one"
    if record.layers != n_layers:
        return f"says that the model has {record.layers} layers, most peers say {n_layers}"
    return ""


def own_tokens_per_s(record: PeerRecord) -> float | None:
    """Tokens per second through this peer's whole span as it measured itself; None while it has not."""
    if not record.seconds_per_layer:
        return None
    return min(1.0 / record.seconds_per_layer / (record.end - record.start), MAX_TOKENS_PER_S)
