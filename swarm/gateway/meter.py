"""What the gateway measures: Prometheus metrics, named as OpenTelemetry's GenAI conventions where these have a name."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Literal, Protocol

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from swarm.client.stats import ClientStats
from swarm.gateway.admission import Admission
from swarm.peer.metrics import link_metrics
from swarm.wire.link import Link
from swarm.wire.traffic import Traffic

FIRST_TOKEN_S = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60)
PER_TOKEN_S = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2)
DURATION_S = (0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60, 120, 300)

_COUNTS = {
    "steps": "Steps that went through a chain.",
    "failovers": "Repairs of a chain that had answered before.",
    "handovers": "Hops whose state went from a peer that left to another one.",
    "replayed_tokens": "Positions sent again into replacements.",
    "reused_tokens": "Positions that hops had kept from before.",
    "stalled_s": "Seconds that steps spent in repairs.",
}


class LinkBook(Protocol):
    """What of a client's network is looked at."""

    @property
    def links(self) -> Sequence[Link]: ...

    @property
    def traffic(self) -> Traffic: ...


class _States:
    """Numbers that others keep, read when somebody asks."""

    def __init__(self, admission: Admission, stats: ClientStats, book: LinkBook | None) -> None:
        self._admission = admission
        self._stats = stats
        self._book = book

    def collect(self) -> Iterator[Metric]:
        """Prometheus calls this for every scrape."""
        queue, running = self._admission.waiting, self._admission.running
        yield GaugeMetricFamily("swarm_gateway_queue", "Requests that wait for their turn.", queue)
        yield GaugeMetricFamily("swarm_gateway_sessions", "Answers that are being made.", running)
        for name, text in _COUNTS.items():
            yield CounterMetricFamily(f"swarm_client_{name}", text, getattr(self._stats, name))
        if self._book is not None:
            yield from link_metrics("swarm_client", self._book.links, self._book.traffic)


class Meter:
    """Belongs to the event loop.

    Attributes:
        last_token_s: when the last token came, on `clock`; None before the first.
    """

    def __init__(
        self,
        admission: Admission,
        stats: ClientStats,
        clock: Callable[[], float] = time.monotonic,
        book: LinkBook | None = None,
    ) -> None:
        self._clock = clock
        self.last_token_s: float | None = None
        self._registry = registry = CollectorRegistry()
        registry.register(_States(admission, stats, book))
        self._queue_s = Histogram(
            "swarm_gateway_queue_seconds",
            "Waiting for a turn, of requests that got one.",
            buckets=FIRST_TOKEN_S,
            registry=registry,
        )
        self._first_token = Histogram(
            "gen_ai_server_time_to_first_token_seconds",
            "From the arrival of a request to the first token.",
            buckets=FIRST_TOKEN_S,
            registry=registry,
        )
        self._per_token = Histogram(
            "gen_ai_server_time_per_output_token_seconds",
            "Per token after the first, of one answer.",
            buckets=PER_TOKEN_S,
            registry=registry,
        )
        self._duration = Histogram(
            "gen_ai_server_request_duration_seconds",
            "From the arrival of a request to the end of the answer.",
            ["outcome"],
            buckets=DURATION_S,
            registry=registry,
        )
        self._tokens = Counter(
            "swarm_gateway_tokens", "Tokens of prompts and of answers.", ["type"], registry=registry
        )
        self._errors = Counter(
            "swarm_gateway_errors", "Requests that got an error.", ["status"], registry=registry
        )

    @property
    def now_s(self) -> float:
        """On the meter's clock."""
        return self._clock()

    def timing(self, prompt_tokens: int, came_s: float) -> AnswerTiming:
        """The answer to a request that came at `came_s` begins."""
        self._tokens.labels("input").inc(prompt_tokens)
        return AnswerTiming(self, came_s)

    def waited(self, seconds: float) -> None:
        """A request has got its turn."""
        self._queue_s.observe(seconds)

    def token(self) -> None:
        """A token came through a chain."""
        self.last_token_s = self._clock()
        self._tokens.labels("output").inc()

    def first(self, seconds: float) -> None:
        self._first_token.observe(seconds)

    def ended(self, outcome: Literal["done", "failed", "gone"], seconds: float) -> None:
        self._duration.labels(outcome).observe(seconds)

    def paced(self, seconds: float) -> None:
        self._per_token.observe(seconds)

    def error(self, status: int) -> None:
        """A request got this status."""
        self._errors.labels(str(status)).inc()

    def exposition(self) -> bytes:
        """All metrics in the text format of Prometheus."""
        return generate_latest(self._registry)


class AnswerTiming:
    """The times of one answer."""

    def __init__(self, meter: Meter, came_s: float) -> None:
        self._meter = meter
        self._came_s = came_s
        self._first_s: float | None = None
        self._tokens = 0

    def token(self) -> None:
        """One more token of the answer came."""
        self._meter.token()
        self._tokens += 1
        if self._first_s is None:
            self._first_s = self._meter.now_s
            self._meter.first(self._first_s - self._came_s)

    @property
    def first_token_s(self) -> float | None:
        """From the arrival to the first token; None before it."""
        return None if self._first_s is None else self._first_s - self._came_s

    def ended(self, outcome: Literal["done", "failed", "gone"]) -> float:
        """Nothing more comes; how long it took since the arrival."""
        now_s = self._meter.now_s
        self._meter.ended(outcome, now_s - self._came_s)
        if self._first_s is not None and self._tokens > 1:
            self._meter.paced((now_s - self._first_s) / (self._tokens - 1))
        return now_s - self._came_s
