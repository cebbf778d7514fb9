"""A hundred clients vanish in mid-stream: no peer keeps a session of theirs, or a page of its cache."""

from __future__ import annotations

import json
import socket
import urllib.request
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from swarm import SwarmModel
from tests.gateway_lab import RunningGateway, make_gateway, running
from tests.peers import LocalSwarm
from tests.processes import Zygote
from tests.waiting import wait_for

pytestmark = [pytest.mark.slow, pytest.mark.network]

CLIENTS = 100
LIMITS = ("--max-sessions", "512", "--max-sessions-per-client", "512", "--kept-prefixes", "0")
BODY = {
    "model": "demo",
    "messages": [{"role": "user", "content": "Tell me a story about Lily."}],
    "max_tokens": 400,
    "stream": True,
}


def numbers(url: str) -> dict[str, float]:
    """Sessions and pages of a peer, from its metrics."""
    with urllib.request.urlopen(url, timeout=10) as answer:
        families = text_string_to_metric_families(answer.read().decode())
        samples = [sample for family in families for sample in family.samples]
    found = {f"pages {s.labels['state']}": s.value for s in samples if s.name == "swarm_peer_cache_pages"}
    return found | {"sessions": next(s.value for s in samples if s.name == "swarm_peer_sessions")}


def streaming(served: RunningGateway) -> socket.socket:
    """A connection on which an answer has been asked for."""
    connection = socket.create_connection(("127.0.0.1", int(served.url.rpartition(":")[2])))
    data = json.dumps(BODY).encode()
    head = "POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    connection.sendall(f"{head}Content-Length: {len(data)}\r\n\r\n".encode() + data)
    return connection


def test_a_hundred_clients_that_vanish_leave_nothing_on_any_peer(zygote: Zygote) -> None:
    with LocalSwarm(zygote) as swarm:
        for span in ("0:3", "3:6", "6:8"):
            swarm.serve("demo", span, "--threads", "1", "--metrics-port", "0", *LIMITS)
        files = sorted(swarm.folder.glob("*-serve.json"))
        pages = [str(json.loads(file.read_text())["metrics"]) for file in files]
        before = [numbers(page) for page in pages]
        assert [found["pages used"] for found in before] == [0, 0, 0]
        with (
            SwarmModel.from_pretrained("demo", peers=swarm.addresses[:1]) as model,
            running(make_gateway(model, sessions=CLIENTS)) as served,
        ):
            _vanish(served, pages, before)


def _vanish(served: RunningGateway, pages: list[str], before: list[dict[str, Any]]) -> None:
    connections = [streaming(served) for _ in range(CLIENTS)]
    for connection in connections:
        assert connection.recv(64).startswith(b"HTTP/1.1 200")
    for found in map(numbers, pages):
        assert found["sessions"] > 0
        assert found["pages used"] + found["pages free"] == before[0]["pages free"]
    for connection in connections:
        connection.close()
    wait_for(lambda: list(map(numbers, pages)) == before, 30, "all pages of all peers are free")
    wait_for(
        lambda: served.admission.running == 0, 30, "every turn has ended, also of those that had no chain yet"
    )
