"""What a gateway tells of a request that ended: numbers, hops and sessions, never a word of it."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer

import openai
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from swarm.gateway.account import Account, HopAccount, Times
from swarm.gateway.origin import Origin
from swarm.gateway.tracing import Traces
from tests.conftest import SwarmFactory
from tests.peers import LocalSwarm
from tests.test_cli_gateway import start

HOPS = (
    HopAccount("peerA", "0:4", "aa" * 16, queue_s=0.1, compute_s=0.2, serialise_s=0.0),
    HopAccount("peerB", None, None, queue_s=0.0, compute_s=0.4, serialise_s=0.0),
)
TIMES = Times(10**18, queue_s=0.2, first_token_s=0.5, duration_s=2.0)
TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


def account(origin: Origin) -> Account:
    return Account(TIMES, "done", origin, 7, 3, steps=2, links_s=0.1, hops=HOPS)


def test_a_request_is_a_span_and_its_hops_are_below_it() -> None:
    exporter = InMemorySpanExporter()
    traces = Traces("demo", exporter)
    traces.tell(account(Origin("req_7")))
    traces.close()
    first, second, whole = exporter.get_finished_spans()
    assert whole.name == "chat demo"
    assert whole.attributes is not None
    assert whole.parent is None
    assert whole.attributes["gen_ai.usage.input_tokens"] == 7
    assert whole.attributes["swarm.request_id"] == "req_7"
    assert (whole.start_time, whole.end_time) == (10**18, 10**18 + 2 * 10**9)
    assert whole.context is not None
    for hop, begin_s in ((first, 0.5), (second, 0.8)):
        assert hop.parent is not None
        assert hop.parent.span_id == whole.context.span_id
        assert hop.start_time == pytest.approx(10**18 + begin_s * 1e9)
    assert first.attributes is not None
    assert first.attributes["swarm.session"] == "aa" * 16
    assert second.name == "hop peerB"


def test_texts_that_become_vectors_are_spans_of_their_own_kind() -> None:
    exporter = InMemorySpanExporter()
    traces = Traces("demo", exporter)
    times = Times(10**18, queue_s=0.2, first_token_s=None, duration_s=2.0)
    traces.tell(Account.of_texts(9, times, "failed", Origin("req_8")))
    traces.close()
    [span] = exporter.get_finished_spans()
    assert span.name == "embeddings demo"
    assert span.attributes is not None
    assert span.attributes["gen_ai.operation.name"] == "embeddings"
    assert span.attributes["gen_ai.usage.input_tokens"] == 9
    assert not span.status.is_ok


def test_a_request_goes_on_with_the_trace_of_its_client() -> None:
    exporter = InMemorySpanExporter()
    traces = Traces("demo", exporter)
    traces.tell(account(Origin("req_7", f"00-{TRACE}-{PARENT}-01", "vendor=1")))
    traces.tell(account(Origin("req_8", f"00-{TRACE}-{PARENT}-00")))  # the client keeps nothing of this one
    traces.close()
    *hops, whole = exporter.get_finished_spans()
    assert whole.context is not None
    assert whole.parent is not None
    assert (f"{whole.context.trace_id:x}", f"{whole.parent.span_id:016x}") == (TRACE, PARENT)
    assert whole.context.trace_state.get("vendor") == "1"
    assert {hop.context.trace_id for hop in hops if hop.context is not None} == {whole.context.trace_id}


class Collector(BaseHTTPRequestHandler):
    """Takes traces over OTLP."""

    bodies: list[bytes]

    def do_POST(self) -> None:
        self.bodies.append(self.rfile.read(int(self.headers["content-length"])))
        self.send_response(200)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Says nothing."""


@contextmanager
def collecting() -> Iterator[tuple[str, list[bytes]]]:
    """A collector's URL, and what it has got."""
    bodies: list[bytes] = []
    server = HTTPServer(("127.0.0.1", 0), type("Here", (Collector,), {"bodies": bodies}))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1/traces", bodies
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.mark.slow
@pytest.mark.network
def test_logs_and_traces_of_a_real_request_name_the_sessions_of_the_peers(
    swarm_factory: SwarmFactory,
) -> None:
    with swarm_factory() as swarm, collecting() as (url, bodies):
        _ask_a_swarm(swarm, url, bodies)


def _ask_a_swarm(swarm: LocalSwarm, url: str, bodies: list[bytes]) -> None:
    peers = [swarm.serve("demo", span, "--threads", "1", "--log-format", "json") for span in ("0:4", "4:8")]
    gateway, at = start(swarm, "--log-format", "json", "--otlp", url)
    client = openai.OpenAI(base_url=f"{at}/v1", api_key="none", max_retries=0)
    with client:
        client.chat.completions.create(
            model="demo",
            messages=[{"role": "user", "content": "xylophone"}],
            max_tokens=4,
            extra_headers={"traceparent": f"00-{TRACE}-{PARENT}-01", "x-request-id": "mine-7"},
        )
    gateway.terminate()
    assert gateway.wait(30.0) == 0
    records = [json.loads(line) for line in gateway.stderr_path.read_text().splitlines()]
    [ended] = [record for record in records if record["message"] == "a request ended"]
    assert (ended["outcome"], ended["new_tokens"]) == ("done", 4)
    assert (ended["request_id"], ended["trace_id"]) == ("mine-7", TRACE)
    sessions = [hop["session"] for hop in ended["hops"]]
    assert [hop["layers"] for hop in ended["hops"]] == ["0:4", "4:8"]
    for peer, session in zip(peers, sessions, strict=True):
        assert f'"session": "{session}"' in peer.log
    assert "xylophone" not in gateway.log
    spans = [
        span
        for body in bodies
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans
        for scope in resource.scope_spans
        for span in scope.spans
    ]
    assert sorted(span.name for span in spans) == ["chat demo", "hop 0:4", "hop 4:8"]
    assert {span.trace_id.hex() for span in spans} == {TRACE}
    assert next(span for span in spans if span.name == "chat demo").parent_span_id.hex() == PARENT
    assert not any(b"xylophone" in body for body in bodies)
