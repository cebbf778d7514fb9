"""The lowest-latency chain of peers through a span of layers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from swarm.core.errors import SwarmUnavailable
from swarm.core.span import Span
from swarm.routing.links import DenseLinks, Links
from swarm.routing.pressure import pressure_s
from swarm.routing.records import PeerRecord, PeerState
from swarm.routing.shortest_path import Terrain, cheapest_path
from swarm.routing.shortfall import explain
from swarm.routing.view import SwarmView

# What part of a peer's queue a chain is charged once; the rest in proportion to the layers that it runs there. If all
# were charged once, a layer at a busy peer would cost as much as its whole span, and chains would not share the load.
QUEUE_PER_VISIT = 0.2
# What a token of a long prompt takes on peers that have not measured it, of what a decode step takes.
PREFILL_SHARE = 0.25


class LinkCost(Protocol):
    """Anything that knows the one-way seconds between two nodes."""

    def link_s(self, source: str, sink: str, /) -> float: ...


@runtime_checkable
class LinkTable(Protocol):
    """A `LinkCost` that answers for all pairs at once, which 1,000 peers need."""

    def between(self, peers: list[str], /) -> Links: ...


@dataclass(frozen=True, slots=True)
class ChainRequest:
    """What a chain is needed for.

    Attributes:
        source, sink: peer ids of who sends into the chain and who gets its output: the client, or survivors.
        links: one-way seconds between any two nodes.
        tokens: token rows (rows x positions) that every hop must have free.
        precision: the only one to use; None takes the precision with the cheapest chain.
        coding: in which activations travel; None for the model's dtype.
        avoid: peers that are not used, whatever they announce.
        busy: peers that asked to be left alone for now.
        only: the only peers to use; None allows all.
        together: layers that must run on one peer.
        measured: seconds per layer of peers for which what they announce does not hold.
        prompt_share: token rows of prompt to compute for each token to come; the chain's time for them counts.
        row_bytes: what a token row takes on the wire.
        dearer: factors, at least 1, by which the search judges all that goes with a peer; no part of `Chain.cost_s`.
    """

    source: str
    sink: str
    links: LinkCost
    tokens: int = 1
    precision: str | None = None
    coding: str | None = None
    avoid: frozenset[str] = frozenset()
    busy: frozenset[str] = frozenset()
    only: frozenset[str] | None = None
    together: Span | None = None
    measured: Mapping[str, float] = field(default_factory=dict)
    prompt_share: float = 0.0
    row_bytes: int = 0
    dearer: Mapping[str, float] = field(default_factory=dict)

    def layer_s(self, record: PeerRecord) -> float:
        """Seconds per layer to expect of this peer."""
        return self.measured.get(record.peer_id, record.seconds_per_layer)

    def prefill_layer_s(self, record: PeerRecord) -> float:
        """Seconds per layer and token of a long prompt to expect of this peer."""
        guess_s = PREFILL_SHARE * self.layer_s(record)
        announced_s = record.prefill_seconds_per_layer or guess_s
        return max(announced_s, guess_s) if record.peer_id in self.measured else announced_s

    def token_layer_s(self, record: PeerRecord) -> float:
        """Seconds per layer for one token to come, with its share of the prompt."""
        return self.layer_s(record) + self.prompt_share * self.prefill_layer_s(record)

    def wire_s(self, record: PeerRecord) -> float:
        """Seconds in which its downlink and its uplink carry one token to come, with its share of the prompt."""
        rates = (record.download_bytes_per_s, record.upload_bytes_per_s)
        return sum((1.0 + self.prompt_share) * self.row_bytes / rate for rate in rates if rate)

    def wait_s(self, record: PeerRecord) -> float:
        """What its queue, and its cache as far as it is full, cost a session of this size."""
        return record.queue_s + pressure_s(record, self.layer_s(record), self.tokens)

    def objection(self, record: PeerRecord) -> str:
        """Why this peer cannot be used, in a few words; empty if it can."""
        if record.span.cuts(self.together):
            return f"cuts layers {self.together}, which must stay together"
        if self.only is not None and record.peer_id not in self.only:
            return "not asked for"
        if record.peer_id in self.avoid:
            return "avoided after failures"
        if record.peer_id in self.busy:
            return "busy"
        if record.state is not PeerState.ONLINE:
            return record.state.value
        if self.precision not in (None, record.precision):
            return f"not in {self.precision}"
        if self.coding is not None and self.coding not in record.codings:
            return f"without {self.coding} on the wire"
        if record.free_tokens < self.tokens:
            return "full"
        return ""


@dataclass(frozen=True, slots=True)
class Hop:
    """One peer's part of a chain."""

    peer_id: str
    span: Span


@dataclass(frozen=True, slots=True)
class Chain:
    """Hops that cover a span without gap or overlap, all of one precision.

    `cost_s` is what one token should take, with its share of the prompt.

    A peer stands in two hops only where that is cheaper and it has room for both.
    """

    hops: tuple[Hop, ...]
    cost_s: float
    precision: str

    def __str__(self) -> str:
        return " -> ".join(f"{hop.peer_id[-8:]}[{hop.span}]" for hop in self.hops)


def find_chain(view: SwarmView, span: Span, request: ChainRequest) -> Chain:
    """The cheapest chain through `span`: exact, and the same for the same input.

    Cost: for each hop link(previous, hop) + bytes / download + queue and pressure on the cache (see `charge`) + layers
    x seconds per layer + bytes / upload, then link(last, sink).
    A chain enters and leaves a peer's span at any layer.

    Raises:
        SwarmUnavailable: if some layers have no usable peer; its text names them and says why.
    """
    usable = [r for r in view.peers if not request.objection(r) and r.start < span.end and span.start < r.end]
    found = [_cheapest_in(precision, usable, span, request) for precision in view.precisions()]
    chains = [chain for chain in found if chain is not None]
    if not chains:
        raise SwarmUnavailable(explain(view, span, request.objection, request.tokens))
    return min(chains, key=lambda chain: chain.cost_s)


def price(hop: Hop, record: PeerRecord, request: ChainRequest) -> float:
    """What a chain from the request's source to its sink through this hop alone costs, as far as the links are told.

    For a session that has its room there: how full the cache is costs nothing.
    """
    visit_s, layer_s = charge(
        np.array([record.queue_s]), np.array([request.layer_s(record)]), np.array([len(record.span)])
    )
    link_s = request.links.link_s
    way_s = link_s(request.source, hop.peer_id) + link_s(hop.peer_id, request.sink)
    return way_s + request.wire_s(record) + float(visit_s[0]) + len(hop.span) * float(layer_s[0])


def charge(
    queue_s: NDArray[np.float64], layer_s: NDArray[np.float64], lengths: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Seconds for a visit and for each layer of it, for peers with spans of these lengths.

    A visit of the whole span costs the whole queue.
    """
    return QUEUE_PER_VISIT * queue_s, layer_s + (1 - QUEUE_PER_VISIT) * queue_s / lengths


def _cheapest_in(precision: str, usable: list[PeerRecord], span: Span, request: ChainRequest) -> Chain | None:
    peers = [record for record in usable if record.precision == precision]
    if not peers:
        return None
    terrain = _terrain(peers, span, request)
    path = cheapest_path(_dearer(terrain, peers, request.dearer) if request.dearer else terrain)
    if path is None:
        return None
    hops = tuple(Hop(peers[v.peer].peer_id, Span(span.start + v.start, span.start + v.end)) for v in path)
    return Chain(hops, terrain.cost(path), precision)


def _terrain(peers: list[PeerRecord], span: Span, request: ChainRequest) -> Terrain:
    everyone = np.arange(len(peers))
    names = {record.peer_id: n for n, record in enumerate(peers)}
    source, sink = (names.setdefault(end, len(names)) for end in (request.source, request.sink))
    links = _links(list(names), request.links)
    layers = np.arange(span.start, span.end)[:, None]
    starts, ends = np.array([r.start for r in peers]), np.array([r.end for r in peers])
    room = np.array([r.free_tokens for r in peers])
    visit_s, layer_s = charge(
        np.array([request.wait_s(r) for r in peers]),
        np.array([request.token_layer_s(r) for r in peers]),
        ends - starts,
    )
    return Terrain(
        serves=(starts <= layers) & (layers < ends),
        layer_s=layer_s,
        queue_s=visit_s + np.array([request.wire_s(r) for r in peers]),
        links=links,
        from_source_s=links.between(np.full(len(peers), source), everyone),
        to_sink_s=links.between(everyone, np.full(len(peers), sink)),
        visits=room // max(request.tokens, 1),
        enterable=np.array([_may_enter(layer, request.together) for layer in range(span.start, span.end)]),
    )


def _dearer(terrain: Terrain, peers: list[PeerRecord], factors: Mapping[str, float]) -> Terrain:
    """The same terrain where all that goes with a peer costs its factor of what it did, or less.

    Of the link between two peers only the length of the shortest link of all is sure; that much of it gets dearer.
    """
    factor = np.array([factors.get(record.peer_id, 1.0) for record in peers])
    sure_s = terrain.links.least_s if len(peers) > 1 else 0.0
    return replace(
        terrain,
        layer_s=terrain.layer_s * factor,
        queue_s=terrain.queue_s * factor + (factor - 1.0) * sure_s,
        from_source_s=terrain.from_source_s * factor - (factor - 1.0) * sure_s,
        to_sink_s=terrain.to_sink_s * factor,
    )


def _may_enter(layer: int, together: Span | None) -> bool:
    return together is None or not together.start < layer < together.end


def _links(ids: list[str], links: LinkCost) -> Links:
    if isinstance(links, LinkTable):
        return links.between(ids)
    return DenseLinks(np.array([[links.link_s(a, b) for b in ids] for a in ids]))
