"""`swarm gateway` and `swarm gateway-key` as commands."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest
from openai import OpenAI

from swarm.gateway.key_file import read_keys
from tests.gateway_lab import local_text
from tests.peers import LocalSwarm
from tests.processes import ROOT, CommandProcess
from tests.waiting import wait_for

pytestmark = [pytest.mark.slow, pytest.mark.network]

STORY: list[Any] = [{"role": "user", "content": "Tell me a story about Lily."}]


@pytest.fixture(scope="module")
def swarm(zygote: Any) -> Iterator[LocalSwarm]:
    with LocalSwarm(zygote) as swarm:
        swarm.serve("demo", "0:8", "--threads", "1")
        yield swarm


def start(swarm: LocalSwarm, *options: str, env: dict[str, str] | None = None) -> tuple[CommandProcess, str]:
    """A gateway that serves, and its URL."""
    ready = swarm.folder / "gateway.json"
    ready.unlink(missing_ok=True)
    peers = ["--peers", swarm.addresses[0]]
    process = swarm.start(
        "gateway", "demo", *peers, "--port", "0", "--ready-file", str(ready), *options,
        name="gateway", env=env,
    )  # fmt: skip

    def told() -> str:
        with contextlib.suppress(OSError, ValueError):
            return str(json.loads(ready.read_text())["addresses"][0])
        assert process.status is None, process.log
        return ""

    url = wait_for(told, 60, "the gateway serves")
    process.note_traces()
    return process, url


def test_a_gateway_serves_and_leaves_in_order(swarm: LocalSwarm) -> None:
    process, url = start(swarm, env={"SWARM_DEBUG": "1"})
    with OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
        stream: Any = client.chat.completions.create(
            model="demo", messages=STORY, max_tokens=200, stream=True
        )
        chunks = iter(stream)
        text = (next(chunks).choices[0].delta.content or "") + (next(chunks).choices[0].delta.content or "")
        process.signal(signal.SIGTERM)
        text += "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert text == local_text(STORY, 200)
    assert process.wait(30) == 0
    assert "Left the swarm." in process.stdout_path.read_text()
    log = process.stdout_path.read_text() + process.stderr_path.read_text()
    assert "Lily" not in log
    assert "story" not in log


def test_a_second_signal_ends_answers_at_once(swarm: LocalSwarm) -> None:
    process, url = start(swarm)
    with OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
        stream: Any = client.completions.create(
            model="demo", prompt="Once upon a time", max_tokens=1900, stream=True, logit_bias={"2": -100}
        )
        chunks = iter(stream)
        next(chunks)
        process.signal(signal.SIGINT)
        next(chunks)
        process.signal(signal.SIGINT)
        with contextlib.suppress(openai.OpenAIError, httpx2.HTTPError):
            list(chunks)
    assert process.wait(30) == 0


def test_keys_are_made_for_gateways(swarm: LocalSwarm, tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    made = swarm.run("gateway-key", "ada", "--keys", str(path), "--requests-per-minute", "9")
    assert made.status == 0
    assert read_keys(path)[0].requests_per_minute == 9
    process, url = start(swarm, "--keys", str(path), "--name", "my-demo")
    with OpenAI(base_url=f"{url}/v1", api_key=made.stdout.strip(), max_retries=0) as client:
        assert [model.id for model in client.models.list()] == ["my-demo"]
    process.terminate()
    assert process.wait(30) == 0
    assert swarm.run("gateway-key", "ada", "--keys", str(path), "--remove").status == 0
    assert read_keys(path) == ()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["gateway", "demo"], "--peers is missing"),
        (["gateway", "demo", "--host", "0.0.0.0", "--peers", "ADDRESS"], "--open"),
        (["gateway", "demo", "--port", "99999", "--peers", "ADDRESS"], "--port"),
        (["gateway", "demo", "--keys", "/nowhere", "--peers", "ADDRESS"], "/nowhere"),
        (["gateway", "demo", "--allow-origin", "chat.example", "--peers", "ADDRESS"], "--allow-origin"),
        (["gateway-key", "ada"], "--keys is missing"),
    ],
)
def test_bad_options_give_one_clear_line(swarm: LocalSwarm, arguments: list[str], said: str) -> None:
    given = [swarm.addresses[0] if argument == "ADDRESS" else argument for argument in arguments]
    done = swarm.run(*given)
    assert done.status == 2
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert said in done.stderr


def test_a_port_in_use_is_said_before_anything_is_loaded(swarm: LocalSwarm) -> None:
    process, url = start(swarm)
    port = url.rpartition(":")[2]
    done = swarm.run("gateway", "demo", "--peers", swarm.addresses[0], "--port", port)
    assert done.status == 1
    assert f"port {port}" in done.stderr
    process.terminate()
    assert process.wait(30) == 0


def test_without_its_packages_it_says_what_to_install() -> None:
    script = (
        "import sys; sys.modules['fastapi'] = None; from swarm.cli.main import run;"
        "sys.exit(run(['gateway', 'demo', '--peers', sys.argv[1]]))"
    )
    address = "/ip4/127.0.0.1/tcp/1/p2p/12D3KooWExeMD52dy9zaakce5QMLJGR7qZxyWjUfRKxYEb1rpoYw"
    command = [sys.executable, "-c", script, address]
    done = subprocess.run(command, check=False, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2
    assert "pip install 'layerswarm[gateway]'" in done.stderr
