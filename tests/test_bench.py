"""`swarm bench`, as a user runs it."""

from __future__ import annotations

import json
import os
import shutil
import socket
from pathlib import Path

import pytest

from swarm.bench.namespaces import Star
from tests.conftest import SwarmFactory

needs_root = pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("ip") is None, reason="network namespaces need root and iproute2"
)


@pytest.mark.slow
@pytest.mark.network
def test_decode_is_measured_beside_the_local_model(swarm_factory: SwarmFactory, tmp_path: Path) -> None:
    results = tmp_path / "results.json"
    options = ["--size", "tiny", "--peers", "2", "--swarms", "2", "--rounds", "1", "--tokens", "4"]
    done = swarm_factory().run("bench", "decode", *options, "--json", str(results), deadline_s=180.0)
    assert (done.status, done.stderr) == (0, ""), done.stderr
    assert "of local" in done.stdout
    found = json.loads(results.read_text())
    assert (found["model"], found["settings"]["peers"]) == ("tiny", 2)
    (report,) = found["results"]
    assert report["problems"] == []
    local, one, two = report["rows"]
    assert (local["who"], one["who"], two["who"]) == ("local", "1 peer", "2 peers")
    assert one["ratio"] == pytest.approx(sum(one["ratios"]) / 2)
    assert two["hop_ms"] == pytest.approx(sum(two["hops_ms"]) / 2)
    assert (len(one["ratios"]), len(two["hops_ms"])) == (2, 2)


@pytest.mark.slow
@pytest.mark.network
def test_what_int8_saves_and_costs_is_measured_beside_the_models_dtype(
    swarm_factory: SwarmFactory, tmp_path: Path
) -> None:
    results = tmp_path / "results.json"
    options = ["--size", "tiny", "--peers", "2", "--rounds", "1", "--tokens", "4", "--prompt", "32"]
    done = swarm_factory().run("bench", "wire", *options, "--json", str(results), deadline_s=180.0)
    assert (done.status, done.stderr) == (0, ""), done.stderr
    (report,) = json.loads(results.read_text())["results"]
    model, int8 = report["rows"]
    assert (model["token_bytes"], int8["token_bytes"]) == (32 * 4, 32 + 4)
    assert (model["wrong_flips"], model["wrong_tokens"]) == (0, 0)
    assert model["logit_error"] < 1e-4 < int8["logit_error"] < 0.1


@pytest.mark.slow
@pytest.mark.network
def test_fresh_processes_are_measured_to_their_first_token(
    swarm_factory: SwarmFactory, tmp_path: Path
) -> None:
    results = tmp_path / "results.json"
    options = ["--size", "tiny", "--peers", "1", "--rounds", "1", "--json", str(results)]
    done = swarm_factory().run("bench", "start", *options, deadline_s=180.0)
    assert (done.status, done.stderr) == (0, ""), done.stderr
    (report,) = json.loads(results.read_text())["results"]
    assert report["problems"] == []
    local, one = report["rows"]
    assert (local["who"], one["who"]) == ("local", "1 peer")
    assert one["ratio"] == pytest.approx(one["seconds"] / local["seconds"])
    assert 0 < one["loaded_s"] < one["seconds"]


@pytest.mark.slow
@pytest.mark.network
def test_a_long_past_is_continued_again_and_again(swarm_factory: SwarmFactory, tmp_path: Path) -> None:
    results = tmp_path / "results.json"
    options = ["--size", "tiny", "--peers", "1", "--rounds", "1", "--tokens", "4", "--prompt", "70"]
    done = swarm_factory().run("bench", "long", *options, "--json", str(results), deadline_s=180.0)
    assert (done.status, done.stderr) == (0, ""), done.stderr
    (report,) = json.loads(results.read_text())["results"]
    assert report["problems"] == [], "the tokens are the local model's in every round"
    assert [row["who"] for row in report["rows"]] == ["local", "1 peer"]


@pytest.mark.slow
@pytest.mark.network
@needs_root
def test_namespaces_reach_each_other_and_nothing_else_and_are_removed() -> None:
    with Star(2, delay_s=0.0) as star:
        host = star.place(0).host
        with star.inside(0):
            listener = socket.create_server((host, 0))
        port = listener.getsockname()[1]
        with star.inside(1):
            socket.create_connection((host, port), timeout=10).close()
            with pytest.raises(OSError, match="unreachable"):
                socket.create_connection(("192.0.2.1", 80), timeout=10)
        listener.close()
    assert not list(Path("/run/netns").glob(f"swarm-bench-{os.getpid()}-*"))
