"""Requests as traces for OpenTelemetry: a span for each, and below it one for each hop of its chain."""

from __future__ import annotations

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
from opentelemetry.trace import Span, SpanKind, Status, StatusCode, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from swarm.core.version import VERSION
from swarm.gateway.account import Account, HopAccount


class Traces:
    """Belongs to one gateway. Names follow OpenTelemetry's GenAI conventions where these have one."""

    def __init__(self, model: str, exporter: SpanExporter) -> None:
        self._model = model
        self._provider = TracerProvider(
            resource=Resource.create({"service.name": "swarm-gateway", "service.version": VERSION})
        )
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("layerswarm", VERSION)

    @classmethod
    def to(cls, endpoint: str, model: str) -> Traces:
        """Traces that are sent to this URL, over OTLP."""
        return cls(model, OTLPSpanExporter(endpoint=endpoint))

    def tell(self, account: Account) -> None:
        """A request has ended; its span belongs below the client's, if that named one and keeps its traces.

        Spans leave later, in a thread of the library's.
        """
        times, origin = account.times, account.origin
        attributes: dict[str, str | int | float] = {
            "gen_ai.operation.name": account.operation,
            "gen_ai.provider.name": "layerswarm",
            "gen_ai.request.model": self._model,
            "gen_ai.usage.input_tokens": account.prompt_tokens,
            "gen_ai.usage.output_tokens": account.new_tokens,
            "swarm.outcome": account.outcome,
            "swarm.request_id": origin.request_id,
            "swarm.queue_s": times.queue_s,
            "swarm.steps": account.steps,
            "swarm.links_s": account.links_s,
        }
        if times.first_token_s is not None:
            attributes["gen_ai.server.time_to_first_token"] = times.first_token_s
        carrier = {"traceparent": origin.traceparent or "", "tracestate": origin.tracestate or ""}
        span = self._tracer.start_span(
            f"{account.operation} {self._model}",
            TraceContextTextMapPropagator().extract(carrier),
            kind=SpanKind.SERVER,
            start_time=times.came_ns,
            attributes=attributes,
        )
        if account.outcome == "failed":
            span.set_status(Status(StatusCode.ERROR))
        start_ns = times.came_ns + _ns(times.first_token_s or times.queue_s)
        if times.first_token_s is not None:
            span.add_event("first token", timestamp=start_ns)
        for hop in account.hops:
            start_ns = self._hop(span, hop, start_ns)
        span.end(times.came_ns + _ns(times.duration_s))

    def _hop(self, parent: Span, hop: HopAccount, start_ns: int) -> int:
        """A child as long as all steps on this hop together; when it ends."""
        known = {"swarm.layers": hop.layers, "swarm.session": hop.session}
        span = self._tracer.start_span(
            f"hop {hop.layers or hop.peer}",
            set_span_in_context(parent),
            kind=SpanKind.CLIENT,
            start_time=start_ns,
            attributes={
                "swarm.peer": hop.peer,
                "swarm.queue_s": hop.queue_s,
                "swarm.compute_s": hop.compute_s,
                "swarm.serialise_s": hop.serialise_s,
                **{name: value for name, value in known.items() if value is not None},
            },
        )
        end_ns = start_ns + _ns(hop.total_s)
        span.end(end_ns)
        return end_ns

    def close(self) -> None:
        """Send what has not left yet; waits for that."""
        self._provider.shutdown()


def _ns(seconds: float) -> int:
    return int(seconds * 1e9)
