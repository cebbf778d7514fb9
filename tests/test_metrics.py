"""What a peer tells Prometheus is what it did, and nobody pays for it who does not ask."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import sys
import urllib.request
from collections.abc import Awaitable, Callable
from functools import partial

import pytest
import torch
from prometheus_client.parser import text_string_to_metric_families

from swarm.core.config import MetricsConfig
from swarm.core.errors import NodeError, SessionLost
from swarm.core.pages import PAGE_TOKENS
from swarm.peer.metrics import PeerMetrics
from swarm.peer.metrics_page import metrics_page
from swarm.peer.tally import Spread, Tally
from tests.callers import Caller, states
from tests.conftest import SwarmFactory
from tests.in_process import Lab, serve_twice
from tests.lab_peer import LabPeer
from tests.peers import LocalSwarm
from tests.source_map import ROOT
from tests.test_deploy_options import shown_on_the_dashboard

PROMPT = "The secret word is xylophone"


def numbers(text: str) -> dict[str, float]:
    """Every sample by its name and labels, as they stand on the page."""
    return {
        sample.name + "".join(f" {key}={value}" for key, value in sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def of(peer: LabPeer) -> dict[str, float]:
    metrics = PeerMetrics(peer.service.tally)
    metrics.joined(peer.node.links, lambda: peer.node.traffic)
    metrics.serving(peer.service, name=peer.node.peer_id, layers=str(peer.offer.span))
    return numbers(metrics.exposition().decode())


def test_values_are_counted_in_their_range() -> None:
    spread = Spread((1.0, 2.0))
    for value in (0.5, 1.0, 1.5, 7.0):
        spread.add(value)
    assert spread.cumulated == [(1.0, 2), (2.0, 3), (float("inf"), 4)]
    assert spread.total == 10.0


@pytest.mark.slow
def test_the_page_tells_steps_tokens_cache_and_bytes() -> None:
    with Lab() as lab:
        peer = lab.serve("A", 0, 6, cache_tokens=256)
        prompt = torch.arange(1, 6)[None]
        found: dict[str, float] = {}
        lab.before_call[3] = partial(_note, found, peer)
        lab.generate(inputs=prompt, max_new_tokens=4)
        assert found["swarm_peer_tokens_total"] == 6  # the prompt and a token
        assert found["swarm_peer_sessions"] == found["swarm_peer_opened_sessions_total"] == 1
        assert found["swarm_peer_queue_seconds_count"] == found["swarm_peer_compute_seconds_count"] == 2
        assert found["swarm_peer_batch_tokens_sum"] == 6
        pages = [found[f"swarm_peer_cache_pages state={state}"] for state in ("used", "kept", "free")]
        assert pages[0] > 0
        assert sum(pages) * PAGE_TOKENS == peer.pool.total_tokens
        assert found["swarm_peer_bytes_total direction=in"] > 6 * 32 * 4
        assert found["swarm_peer_link_bytes_total direction=out peer=cLient"] > 2 * 32 * 4
        assert any(name.startswith("swarm_peer_info layers=0:6 name=A") for name in found)
        assert of(peer)["swarm_peer_sessions"] == 0


@pytest.mark.slow
def test_the_dashboard_and_the_page_on_operations_show_metrics_that_peers_have() -> None:
    with Lab() as lab:
        metrics = PeerMetrics(Tally())
        metrics.serving(lab.serve("A", 0, 6).service)
        there = set(re.findall(r"^# TYPE (\w+)", metrics.exposition().decode(), re.MULTILINE))
    operations = (ROOT / "docs" / "operations.md").read_text()
    assert set(re.findall(r"`(swarm_peer_\w+)`", operations)) == there
    shown = {name for name in shown_on_the_dashboard() if name.startswith("swarm_peer_")}
    assert {re.sub(r"_(bucket|count|sum)$", "", name) for name in shown} <= there


async def _note(found: dict[str, float], peer: LabPeer) -> None:
    found.update(of(peer))


@pytest.mark.slow
def test_a_lost_hop_is_a_replay_of_the_one_before_it() -> None:
    with Lab() as lab:
        serve_twice(lab)
        lab.before_call[3] = partial(lab.kill, "B")
        lab.check_exact(inputs=torch.arange(1, 6)[None], max_new_tokens=6)
        found = of(lab.peers["A"])
        assert found["swarm_peer_replays_total"] == 1
        assert found["swarm_peer_replayed_tokens_total"] == 6


@pytest.mark.slow
def test_what_is_refused_is_counted_by_its_kind() -> None:
    with Lab() as lab:
        peer = lab.serve("A", 0, 3)
        stranger = Caller(lab, "Stranger")
        stranger.send(0, 0, states())
        with pytest.raises(SessionLost):
            stranger.inspect()
        assert of(peer)["swarm_peer_failures_total kind=session_lost"] == 2


def page(ask: Callable[[str], Awaitable[bytes]]) -> bytes:
    async def scenario() -> bytes:
        async with metrics_page(MetricsConfig("127.0.0.1", 0), lambda: b"a 1\n") as url:
            return await ask(url)

    return asyncio.run(scenario())


async def raw(url: str, request: bytes) -> bytes:
    host, _, port = url.removeprefix("http://").removesuffix("/metrics").rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(request)
    answer = await reader.read()
    writer.close()
    return answer


def test_the_page_is_there_for_get_and_nothing_else_is() -> None:
    def first_line(request: bytes) -> bytes:
        return page(lambda url: raw(url, request)).splitlines()[0]

    assert page(lambda url: raw(url, b"GET /metrics?x=1 HTTP/1.1\r\nHost: a\r\n\r\n")).endswith(
        b"\r\n\r\na 1\n"
    )
    assert first_line(b"GET /secret HTTP/1.1\r\n\r\n") == b"HTTP/1.1 404 Not Found"
    assert first_line(b"POST /metrics HTTP/1.1\r\n\r\n") == b"HTTP/1.1 405 Method Not Allowed"
    assert first_line(b"\r\n\r\n") == b"HTTP/1.1 404 Not Found"


def test_a_request_without_an_end_is_hung_up_on() -> None:
    assert page(lambda url: raw(url, b"x" * 40000)) == b""


def test_a_port_that_is_taken_is_said_in_one_line() -> None:
    async def again(url: str) -> bytes:
        with pytest.raises(NodeError, match="choose another --metrics-port"):
            async with metrics_page(MetricsConfig("127.0.0.1", int(url.split(":")[2].split("/")[0])), bytes):
                pass
        return b""

    page(again)


@pytest.mark.slow
def test_a_peer_without_a_page_does_not_load_prometheus() -> None:
    code = "import sys, swarm.cli.serve, swarm.peer.server; sys.exit('prometheus_client' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=60, check=False).returncode == 0


@pytest.mark.slow
@pytest.mark.network
def test_a_real_peer_has_the_page_and_a_log_of_objects_that_hold_no_prompt(
    swarm_factory: SwarmFactory,
) -> None:
    with swarm_factory() as swarm:
        _watch_a_peer(swarm)


def _watch_a_peer(swarm: LocalSwarm) -> None:
    peer = swarm.serve("demo", "0:8", "--threads", "1", "--metrics-port", "0", "--log-format", "json")
    url = json.loads((swarm.folder / "0-serve.json").read_text())["metrics"]
    done = swarm.run("generate", "demo", PROMPT, "--max-tokens", "4", "--peers", peer.addresses[0])
    assert done.status == 0
    with urllib.request.urlopen(url, timeout=10) as answer:
        found = numbers(answer.read().decode())
    assert found["swarm_peer_opened_sessions_total"] == 3  # the peer's own probe had two
    assert found["swarm_peer_bytes_total direction=in"] > 1000
    peer.terminate()
    assert peer.wait(20.0) == 0
    records = [json.loads(line) for line in peer.stderr_path.read_text().splitlines()]
    opened = [record["session"] for record in records if record["message"] == "session open"]
    ended = [record["session"] for record in records if record["message"] == "session ended"]
    assert len(opened) == 3
    assert opened == ended
    assert "xylophone" not in peer.log
