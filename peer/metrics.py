"""What a peer tells Prometheus: its tally, the state of its sessions and cache, and its links."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)

from swarm.core.pages import PAGE_TOKENS
from swarm.core.version import VERSION
from swarm.peer.service import Service
from swarm.peer.tally import Spread, Tally
from swarm.wire.link import Link
from swarm.wire.traffic import Traffic

_SPREADS = {
    "queue_s": ("queue_seconds", "Waiting for the device, of each step."),
    "compute_s": ("compute_seconds", "On the device, of each step."),
    "batch_sessions": ("batch_sessions", "Sessions in each turn of the device."),
    "batch_tokens": ("batch_tokens", "Token rows in each turn of the device."),
}
_COUNTS = {
    "computed_tokens": ("tokens", "Token rows that went through the layers."),
    "probed_tokens": ("probe_tokens", "Token rows of these that the peer's own tests took."),
    "opened": ("opened_sessions", "Sessions that were opened."),
    "replays": ("replays", "Times that kept outputs were sent again, to a replacement."),
    "replayed_tokens": ("replayed_tokens", "Positions of these outputs."),
    "moves": ("moves", "Changes of the layers that are served."),
}


class PeerMetrics:
    """The page of one peer; it has little to say until `serving` tells of a loaded shard."""

    def __init__(self, tally: Tally) -> None:
        self._tally = tally
        self._service: Service | None = None
        self._links: Callable[[], Sequence[Link]] = list
        self._traffic: Callable[[], Traffic] = Traffic
        self._info: dict[str, str] = {"version": VERSION}
        self._registry = CollectorRegistry()
        self._registry.register(self)

    def joined(self, links: Callable[[], Sequence[Link]], traffic: Callable[[], Traffic]) -> None:
        """The node runs."""
        self._links, self._traffic = links, traffic

    def serving(self, service: Service, **info: str) -> None:
        """A shard is loaded; `info` says which."""
        self._service, self._info = service, {"version": VERSION, **info}

    def exposition(self) -> bytes:
        """All metrics in the text format of Prometheus."""
        return generate_latest(self._registry)

    def collect(self) -> Iterator[Metric]:
        """Prometheus' registry calls this."""
        yield InfoMetricFamily("swarm_peer", "Which peer this is, and what it serves.", self._info)
        for field, (name, text) in _SPREADS.items():
            yield _histogram(f"swarm_peer_{name}", text, getattr(self._tally, field))
        for field, (name, text) in _COUNTS.items():
            yield CounterMetricFamily(f"swarm_peer_{name}", text, getattr(self._tally, field))
        yield _labelled(
            "swarm_peer_handovers",
            "Sessions whose state went to another peer, or came from one.",
            "direction",
            {"out": self._tally.handed_over, "in": self._tally.taken_over},
        )
        yield _labelled(
            "swarm_peer_failures",
            "Steps and requests that failed or were refused.",
            "kind",
            dict(sorted(self._tally.failures.items())),
        )
        if self._service is not None:
            yield from _state(self._service)
        yield from link_metrics("swarm_peer", self._links(), self._traffic())


def _state(service: Service) -> Iterator[Metric]:
    sessions = service.sessions
    kept = sessions.prefixes.held_tokens
    pages = {
        "used": sessions.total_tokens - sessions.free_tokens,
        "kept": kept,
        "free": sessions.free_tokens - kept,
    }
    family = GaugeMetricFamily(
        "swarm_peer_cache_pages",
        f"Pages of {PAGE_TOKENS} tokens, in all layers of the peer.",
        labels=["state"],
    )
    for state, tokens in pages.items():
        family.add_metric([state], tokens // PAGE_TOKENS)
    yield family
    yield GaugeMetricFamily("swarm_peer_sessions", "Sessions that are open.", len(sessions))
    yield GaugeMetricFamily("swarm_peer_queue", "Steps that wait for the device.", service.waiting)
    yield GaugeMetricFamily("swarm_peer_draining", "1 while no new sessions are taken.", service.draining)


def link_metrics(prefix: str, links: Sequence[Link], ever: Traffic) -> Iterator[Metric]:
    """Bytes and round trips of the open links, by the other end's id; and the bytes of all links there ever were."""
    used: defaultdict[str, Traffic] = defaultdict(Traffic)
    for link in links:
        used[link.peer_id] += link.traffic
    each = CounterMetricFamily(
        f"{prefix}_link_bytes", "Bytes over the open links to a node.", labels=["peer", "direction"]
    )
    for peer_id, traffic in used.items():
        each.add_metric([peer_id, "in"], traffic.received)
        each.add_metric([peer_id, "out"], traffic.sent)
    yield each
    rtt = GaugeMetricFamily(f"{prefix}_link_rtt_seconds", "Round trip of a ping.", labels=["peer"])
    for peer_id, rtt_s in {link.peer_id: link.rtt_s for link in links if link.rtt_s is not None}.items():
        rtt.add_metric([peer_id], rtt_s)
    yield rtt
    yield _labelled(
        f"{prefix}_bytes",
        "Bytes over all links, those that have closed included.",
        "direction",
        {"in": ever.received, "out": ever.sent},
    )


def _labelled(name: str, text: str, label: str, values: dict[str, int]) -> CounterMetricFamily:
    family = CounterMetricFamily(name, text, labels=[label])
    for value, count in values.items():
        family.add_metric([value], count)
    return family


def _histogram(name: str, text: str, spread: Spread) -> HistogramMetricFamily:
    buckets = [
        ("+Inf" if bound == float("inf") else str(bound), float(count)) for bound, count in spread.cumulated
    ]
    return HistogramMetricFamily(name, text, buckets=buckets, sum_value=spread.total)
