"""Where requests come from: their ids, the traces of their clients, and other pages."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx2
import pytest
from anthropic import Anthropic, NotFoundError
from openai import OpenAI

from swarm.gateway.origin import Origin
from tests.gateway_lab import LocalModel, RunningGateway, make_gateway, running

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT = f"00-{TRACE}-00f067aa0ba902b7-01"
ASKED: list[Any] = [{"role": "user", "content": "What is 12 + 30?"}]


@pytest.fixture(scope="module")
def served() -> Iterator[RunningGateway]:
    with running(make_gateway(LocalModel())) as served:
        yield served


def test_the_trace_of_a_client_is_read_from_its_header() -> None:
    found = Origin.of({"traceparent": PARENT, "tracestate": "vendor=1"})
    assert (found.traceparent, found.tracestate, found.trace_id) == (PARENT, "vendor=1", TRACE)


@pytest.mark.parametrize(
    "parent",
    [
        "",
        "nonsense",
        PARENT.upper(),
        PARENT[:-1],
        f"ff{PARENT[2:]}",
        f"00-{'0' * 32}-00f067aa0ba902b7-01",
        f"00-{TRACE}-{'0' * 16}-01",
    ],
)
def test_a_header_without_the_right_form_begins_no_trace(parent: str) -> None:
    found = Origin.of({"traceparent": parent, "tracestate": "vendor=1"})
    assert (found.traceparent, found.tracestate, found.trace_id) == (None, None, None)


@pytest.mark.parametrize("given", ["", "a b", "x" * 129, "a\r\nb"])
def test_a_strange_id_is_replaced(given: str) -> None:
    found = Origin.of({"x-request-id": given}).request_id
    assert found.startswith("req_")
    assert found != Origin.of({"x-request-id": given}).request_id


@pytest.mark.slow
def test_both_clients_find_the_id_of_their_request(served: RunningGateway) -> None:
    with OpenAI(base_url=f"{served.url}/v1", api_key="none", max_retries=0) as openai:
        found = openai.chat.completions.create(
            model="demo", messages=ASKED, max_tokens=1, extra_headers={"x-request-id": "mine-7"}
        )
        assert found._request_id == "mine-7"
    with Anthropic(base_url=served.url, api_key="none", max_retries=0) as anthropic:
        message = anthropic.messages.create(model="demo", messages=ASKED, max_tokens=1)
        assert message._request_id is not None
        assert message._request_id.startswith("req_")
        with pytest.raises(NotFoundError) as caught:
            anthropic.messages.create(model="another", messages=ASKED, max_tokens=1)
    body: Any = caught.value.body
    assert body["request_id"] == caught.value.request_id


@pytest.mark.slow
def test_pages_of_allowed_origins_may_ask_and_no_others() -> None:
    ours, theirs = {"origin": "https://chat.example"}, {"origin": "https://other.example"}
    asking = {"access-control-request-method": "POST", "access-control-request-headers": "authorization"}
    with (
        running(make_gateway(LocalModel()), allowed_origins=[ours["origin"]]) as served,
        httpx2.Client(base_url=served.url) as client,
    ):
        assert client.options("/v1/chat/completions", headers=ours | asking).status_code == 200
        assert client.options("/v1/chat/completions", headers=theirs | asking).status_code == 400
        found = client.get("/v1/models", headers=ours)
        assert found.headers["access-control-allow-origin"] == ours["origin"]
        assert "x-swarm-chain" in found.headers["access-control-expose-headers"]
        assert "access-control-allow-origin" not in client.get("/v1/models", headers=theirs).headers


@pytest.mark.slow
def test_an_error_that_nobody_expected_is_a_500_and_stays_out_of_the_log(
    served: RunningGateway, caplog: pytest.LogCaptureFixture
) -> None:
    def fails(*args: Any) -> Any:
        raise ValueError("What is 12 + 30?")

    served.gateway.prompter.chat = fails  # type: ignore[method-assign, assignment]
    try:
        with httpx2.Client() as client:
            path = "/v1/messages/count_tokens"
            found = client.post(served.url + path, json={"model": "demo", "messages": ASKED})
    finally:
        del served.gateway.prompter.chat
    assert found.status_code == 500
    assert found.headers["x-request-id"].startswith("req_")
    assert "12 + 30" not in found.text + caplog.text
    assert "ValueError" in caplog.text
