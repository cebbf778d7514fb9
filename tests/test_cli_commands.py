"""The commands over real peers: what they print, write and return."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.peers import LocalSwarm
from tests.processes import Zygote
from tests.waiting import wait_for

pytestmark = [pytest.mark.slow, pytest.mark.network]

PROMPT = "Once upon a time"


@pytest.fixture(scope="module")
def swarm(zygote: Zygote) -> Iterator[LocalSwarm]:
    """A bootstrap node and two peers that serve the demo model."""
    with LocalSwarm(zygote) as swarm:
        swarm.bootstrap()
        swarm.serve("demo", "0:5", "--name", "ada", "--threads", "1")
        swarm.serve("demo", "5:8", "--name", "ben", "--threads", "1")
        yield swarm


def way_in(swarm: LocalSwarm) -> list[str]:
    return ["--peers", swarm.addresses[0]]


def test_a_bootstrap_node_writes_a_ready_file_without_a_model(swarm: LocalSwarm) -> None:
    ready = json.loads(next(swarm.folder.glob("*-bootstrap.json")).read_text())
    assert ready.keys() == {"peer_id", "addresses", "model", "span", "pid"}
    assert (ready["model"], ready["span"]) == (None, None)
    assert ready["addresses"][0].endswith(f"/p2p/{ready['peer_id']}")
    assert psutil.pid_exists(ready["pid"])


def test_a_bootstrap_node_logs_as_json_that_it_serves(swarm: LocalSwarm) -> None:
    node = swarm.bootstrap("--log-format", "json")
    [record] = [json.loads(line) for line in node.log.splitlines() if '"serving"' in line]
    assert (record["peer_id"], record["addresses"]) == (node.peer_id, node.addresses)
    node.terminate()
    assert node.wait(20.0) == 0


def test_a_peer_prints_the_line_to_join_with_ready_to_paste(swarm: LocalSwarm) -> None:
    out = swarm.peers[1].stdout_path.read_text()
    assert "ada serves layers 0:5 of demo" in out
    assert f"\n  swarm serve demo --peers {swarm.peers[1].addresses[0]}\n" in out


def test_generate_streams_the_same_text_as_it_gives_in_json(swarm: LocalSwarm) -> None:
    options = ["generate", "demo", PROMPT, *way_in(swarm), "--max-tokens", "20"]
    plain = swarm.run(*options)
    data = json.loads(swarm.run(*options, "--json").stdout)
    assert (plain.status, plain.stderr) == (0, "")
    assert plain.stdout == data["text"] + "\n"
    assert len(data["tokens"]) == 20
    assert data["finish_reason"] == "length"
    assert [(hop["name"], hop["span"]) for hop in data["chain"]] == [("ada", "0:5"), ("ben", "5:8")]
    assert data["failovers"] == 0
    assert data["timings"].keys() >= {"load_s", "first_token_s", "tokens_per_s"}


def test_generate_reads_stdin_and_stops_before_a_stop_text(swarm: LocalSwarm) -> None:
    done = swarm.run(
        "generate", "demo", "-", *way_in(swarm), "--stop", ",", "--stop", ".", "--json", stdin=PROMPT.encode()
    )
    data = json.loads(done.stdout)
    assert not {",", "."} & set(data["text"])
    assert data["finish_reason"] == "stop"


def test_generate_uses_the_chat_template(swarm: LocalSwarm) -> None:
    done = swarm.run("generate", "demo", "What is 12 + 7?", *way_in(swarm), "--chat", "--json")
    assert "19" in json.loads(done.stdout)["text"]


def test_the_same_seed_gives_the_same_text(swarm: LocalSwarm) -> None:
    options = [
        "generate",
        "demo",
        PROMPT,
        *way_in(swarm),
        "--max-tokens",
        "15",
        "--temperature",
        "1.5",
        "--seed",
    ]
    one, same, other = (swarm.run(*options, seed).stdout for seed in ("1", "1", "2"))
    assert one == same != other


def test_every_option_may_come_from_the_environment(swarm: LocalSwarm) -> None:
    env = {"SWARM_PEERS": swarm.addresses[0], "SWARM_MAX_TOKENS": "3", "SWARM_JSON_OUTPUT": "1"}
    done = swarm.run("generate", "demo", PROMPT, env=env)
    assert len(json.loads(done.stdout)["tokens"]) == 3


def test_status_shows_every_peer_of_every_model(swarm: LocalSwarm) -> None:
    done = swarm.run("status", *way_in(swarm))
    assert (done.status, done.stderr) == (0, "")
    assert "█████···" in done.stdout
    assert "·····███" in done.stdout
    assert "complete; weakest layer" in done.stdout


def test_status_as_json_has_states_and_free_cache(swarm: LocalSwarm) -> None:
    done = swarm.run("status", "demo", *way_in(swarm), "--json")
    [model] = json.loads(done.stdout)["models"]
    assert [(peer["name"], peer["span"], peer["state"]) for peer in model["peers"]] == [
        ("ada", [0, 5], "online"),
        ("ben", [5, 8], "online"),
    ]
    assert all(0 < peer["free_tokens"] <= peer["total_tokens"] for peer in model["peers"])
    assert (model["complete"], model["missing"]) == (True, [])


def test_status_with_watch_goes_on_until_it_is_stopped(swarm: LocalSwarm) -> None:
    process = swarm.start("status", "demo", *way_in(swarm), "--json", "--watch", "--interval-s", "0.1")
    wait_for(
        lambda: process.stdout_path.exists() and process.stdout_path.read_text().count("\n") >= 2,
        60.0,
        "two looks",
    )
    process.terminate()
    assert process.wait(30.0) == 143


def test_status_of_a_model_that_nobody_serves_is_one_line(swarm: LocalSwarm) -> None:
    done = swarm.run("status", "other", *way_in(swarm))
    assert (done.status, done.stdout) == (1, "")
    assert done.stderr == "error: nobody serves other in this swarm; it serves demo\n"


def test_a_port_in_use_is_one_line(swarm: LocalSwarm) -> None:
    port = swarm.addresses[0].split("/")[4]
    done = swarm.run("bootstrap", "--host", "127.0.0.1", "--port", port)
    assert done.status == 1
    assert done.stderr.startswith(f"error: port {port} is already in use")
    assert done.stderr.count("\n") == 1


def test_an_unreachable_bootstrap_is_one_line(swarm: LocalSwarm) -> None:
    nobody = "/ip4/127.0.0.1/tcp/1/p2p/" + swarm.peers[0].peer_id
    for command in (["status"], ["generate", "demo", PROMPT], ["bootstrap", "--host", "127.0.0.1"]):
        done = swarm.run(*command, "--peers", nobody)
        assert done.status == 1
        assert done.stderr.startswith("error: cannot reach any of the peers given by --peers")
        assert done.stderr.count("\n") == 1


def test_a_prompt_longer_than_every_cache_is_one_line(swarm: LocalSwarm) -> None:
    done = swarm.run("generate", "demo", PROMPT, *way_in(swarm), "--max-tokens", "1000000")
    assert done.status == 1
    assert "holds 16384: shorten the prompt" in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_bootstrap_node_leaves_in_order(swarm: LocalSwarm, tmp_path: Path) -> None:
    process = swarm.start("bootstrap", "--host", "127.0.0.1", "--ready-file", str(tmp_path / "ready"))
    wait_for((tmp_path / "ready").exists, 60.0, "ready")
    process.terminate()
    assert process.wait(30.0) == 0
    assert process.stderr_path.read_text() == ""
