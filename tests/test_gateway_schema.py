"""Whatever is sent to the gateway, it does not fail: requests made from its own OpenAPI schema, and broken ones."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, settings
from schemathesis.checks import not_a_server_error

from swarm.gateway.app import build_app
from tests.gateway_lab import BODY_BYTES, LocalModel, RunningGateway, make_gateway, running

pytestmark = pytest.mark.slow

EXAMPLES = 25
SUM: dict[str, Any] = {
    "model": "demo",
    "messages": [{"role": "user", "content": "What is 12 + 30?"}],
    "max_tokens": 4,
}
ROUTES = [
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/responses",
    "/v1/messages",
    "/v1/messages/count_tokens",
    "/v1/embeddings",
]


class ShortModel(LocalModel):
    """Never writes more than a few tokens: what counts here is what requests look like."""

    def generate(self, inputs: Any = None, **options: Any) -> Any:
        return super().generate(inputs, **options | {"max_new_tokens": min(options["max_new_tokens"], 2)})


@pytest.fixture(scope="module")
def served() -> Iterator[RunningGateway]:
    with running(make_gateway(ShortModel(), sessions=16)) as served:
        yield served


def _document() -> dict[str, Any]:
    """The schema, with the only model there is, lest all requests end at an unknown name."""

    async def made() -> dict[str, Any]:
        return build_app(make_gateway(ShortModel()), BODY_BYTES).openapi()

    document = asyncio.run(made())
    for schema in document["components"]["schemas"].values():
        if "model" in schema.get("properties", {}):
            schema["properties"]["model"] = {"const": "demo"}
    return document


schema = schemathesis.openapi.from_dict(_document()).exclude(path="/swarm/events")  # it has no end


@schema.parametrize()
@settings(
    max_examples=EXAMPLES,
    derandomize=True,
    database=None,
    deadline=None,
    phases=(Phase.explicit, Phase.generate),
    suppress_health_check=list(HealthCheck),
)
def test_no_request_of_the_schema_makes_the_gateway_fail(served: RunningGateway, case: Any) -> None:
    response = case.call(base_url=served.url)
    if case.path != "/readyz":  # 503 is what it says while it is not ready
        case.validate_response(response, checks=(not_a_server_error,))


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"null",
        b"[]",
        b'{"model": "demo"}',
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"model": "\\ud800", "messages": [], "\\ud800": 1}',
        b'{"model": "demo", "messages": [{"role": "user", "content": "\\ud800"}], "max_tokens": 1}',
        b'{"model": "demo", "max_tokens": 1e999, "temperature": NaN}',
        b'{"model": "demo", "input": {"a": 1}, "prompt": {"a": 1}, "messages": {"a": 1}}',
    ],
    ids=lambda body: repr(body[:24]),
)
def test_a_broken_body_is_the_clients_fault(served: RunningGateway, route: str, body: bytes) -> None:
    with httpx2.Client(timeout=60) as client:
        found = client.post(served.url + route, content=body, headers={"content-type": "application/json"})
    assert found.status_code in (400, 404)
    assert found.json()["error"]["message"]


def test_a_body_without_its_content_type_says_so(served: RunningGateway) -> None:
    with httpx2.Client(timeout=60) as client:
        found = client.post(f"{served.url}/v1/chat/completions", content=json.dumps(SUM))
    assert found.status_code == 400
    assert "content-type: application/json" in found.json()["error"]["message"]


def test_a_body_that_is_too_large_is_refused(served: RunningGateway) -> None:
    with httpx2.Client(timeout=60) as client:
        found = client.post(f"{served.url}/v1/messages", json=SUM | {"system": "x" * BODY_BYTES})
    assert found.status_code == 413
    assert found.json()["error"]["type"] == "request_too_large"


@pytest.mark.parametrize(
    "schema",
    [
        {"$ref": "#/nowhere"},
        {"type": "string", "pattern": "(a+)+$" * 50},
        {"allOf": [{"type": "string"}, {"type": "integer"}]},
        {"type": "object", "properties": {"a": {"$ref": "#"}}, "required": ["a"]},
        {"enum": [float("nan")]},
        {"not": {}},
    ],
)
def test_strange_schemas_make_no_failure(served: RunningGateway, schema: dict[str, Any]) -> None:
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    body = json.dumps(SUM | {"response_format": form})
    with httpx2.Client(timeout=60) as client:
        found = client.post(
            f"{served.url}/v1/chat/completions", content=body, headers={"content-type": "application/json"}
        )
    assert found.status_code in (200, 400)
