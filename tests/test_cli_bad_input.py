"""What a peer says about a model, a span or a file that it cannot use: one line, no traceback, status 1 or 2."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from swarm import SwarmModel
from swarm.builtin import demo_path
from tests.peers import LocalSwarm
from tests.processes import Zygote
from tests.waiting import wait_for

pytestmark = [pytest.mark.slow, pytest.mark.network]

WEIGHTS = "model.safetensors"


@pytest.fixture(scope="module")
def swarm(zygote: Zygote) -> Iterator[LocalSwarm]:
    with LocalSwarm(zygote) as swarm:
        yield swarm


def without_config(folder: Path) -> None:
    (folder / "config.json").unlink()


def only_pickled(folder: Path) -> None:
    (folder / WEIGHTS).rename(folder / "pytorch_model.bin")


def of_unknown_architecture(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "nosuch", "architectures": ["NoSuchForCausalLM"]}
    (folder / "config.json").write_text(json.dumps(config))


def lacking_a_tensor(folder: Path) -> None:
    tensors = load_file(folder / WEIGHTS)
    del tensors["model.layers.3.mlp.up_proj.weight"]
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})


def with_cut_weights(folder: Path) -> None:
    (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:100_000])


def with_broken_config(folder: Path) -> None:
    (folder / "config.json").write_text('{"model_type": ')


@pytest.mark.parametrize(
    ("damage", "complaint"),
    [
        (without_config, "has no config.json"),
        (only_pickled, "only safetensors are read"),
        (of_unknown_architecture, "'nosuch' is not supported"),
        (lacking_a_tensor, "lacks the tensor 'model.layers.3.mlp.up_proj.weight'"),
        (with_cut_weights, WEIGHTS),
        (with_broken_config, "config.json"),
    ],
)
def test_a_checkpoint_that_cannot_be_served_is_one_line(
    swarm: LocalSwarm, tmp_path: Path, damage: Callable[[Path], None], complaint: str
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(demo_path(), folder)
    damage(folder)
    done = swarm.run("serve", str(folder), "--layers", "2:4", "--host", "127.0.0.1")
    assert (done.status, done.stderr.count("\n")) == (1, 1), done.stderr
    assert done.stderr.startswith("error: ")
    assert complaint in done.stderr


@pytest.mark.parametrize(
    ("arguments", "status", "complaint"),
    [
        (["/nowhere/at/all"], 1, "/nowhere/at/all is neither a folder nor"),
        (["demo", "--layers", "4:9"], 2, "--layers 4:9: demo has only layers 0:8"),
        (["demo", "--device", "cuda:99"], 2, "--device cuda:99: this machine has"),
        (["demo", "--cache-tokens", "63"], 2, "--cache-tokens is 63"),
        (["demo", "--cache-tokens", "99999999999999"], 1, "not even one layer fits"),
        (
            ["demo", "--public-address", "/ip4/1.2.3.4"],
            2,
            "--public-address: '/ip4/1.2.3.4' is not an address",
        ),
    ],
)
def test_an_option_that_does_not_fit_is_one_line(
    swarm: LocalSwarm, arguments: list[str], status: int, complaint: str
) -> None:
    done = swarm.run("serve", *arguments, "--host", "127.0.0.1")
    assert (done.status, done.stderr.count("\n")) == (status, 1), done.stderr
    assert done.stderr.startswith(f"error: {complaint}")


def test_a_corrupt_identity_is_one_line(swarm: LocalSwarm, tmp_path: Path) -> None:
    (tmp_path / "identity").write_bytes(b"\x08\x01\x12\x40 but then no key")
    for command in (["bootstrap"], ["serve", "demo"]):
        done = swarm.run(*command, "--host", "127.0.0.1", "--identity", str(tmp_path / "identity"))
        assert (done.status, done.stderr.count("\n")) == (1, 1), done.stderr
        assert f"the identity file {tmp_path}/identity is damaged" in done.stderr


def test_a_running_peers_identity_is_not_used_twice(swarm: LocalSwarm, tmp_path: Path) -> None:
    key = tmp_path / "identity"
    swarm.bootstrap("--identity", str(key))
    done = swarm.run("serve", "demo", "--host", "127.0.0.1", "--identity", str(key))
    assert (done.status, done.stderr) == (
        2,
        f"error: --identity {key} is used by a running node: stop that, or give another file\n",
    )


def test_another_checkpoint_of_equal_shape_is_not_served_by_these_peers(
    swarm: LocalSwarm, tmp_path: Path
) -> None:
    folder = tmp_path / "twin"
    shutil.copytree(demo_path(), folder)
    tensors = load_file(folder / WEIGHTS)
    tensors["model.norm.weight"] *= 1.01
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    peer = swarm.serve("demo", "0:8", "--threads", "1", peers=[])
    done = swarm.run("generate", str(folder), "Hello", "--peers", peer.addresses[0])
    assert (done.status, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    assert done.stderr.startswith(f"error: no peer of this swarm serves {folder.name}")
    assert "it serves demo" in done.stderr


def test_a_swarm_without_the_model_is_one_line(swarm: LocalSwarm) -> None:
    address = swarm.bootstrap(peers=[]).addresses[0]
    for command in (["generate", "demo", "Hello"], ["status"], ["status", "demo"]):
        done = swarm.run(*command, "--peers", address)
        assert (done.status, done.stdout, done.stderr.count("\n")) == (1, "", 1)
        assert done.stderr.startswith("error: ")


class _Halt:
    """A streamer that holds a generation, and so its session, at the first token."""

    def __init__(self) -> None:
        self.held, self.go_on = Event(), Event()
        self._calls = 0

    def put(self, value: object) -> None:
        self._calls += 1
        if self._calls == 2:  # the first call brings the prompt
            self.held.set()
            self.go_on.wait()

    def end(self) -> None:
        pass


def announced_free_tokens(swarm: LocalSwarm, address: str) -> int:
    [model] = json.loads(swarm.run("status", "demo", "--json", "--peers", address).stdout)["models"]
    return int(model["peers"][0]["free_tokens"])


def test_no_free_cache_is_told_with_numbers_when_waiting_and_at_the_end(swarm: LocalSwarm) -> None:
    options = ["--threads", "1", "--cache-tokens", "256", "--lease-s", "3"]  # a short lease: news travel fast
    address = swarm.serve("demo", "0:8", *options, peers=[]).addresses[0]
    halt = _Halt()
    with SwarmModel.from_pretrained("demo", peers=[address]) as model, ThreadPoolExecutor(1) as pool:
        generate: Any = model.generate
        prompt = torch.tensor([[1, 5, 6]])
        running = pool.submit(generate, prompt, max_new_tokens=200, do_sample=False, streamer=halt)
        try:
            assert halt.held.wait(60)
            wait_for(
                lambda: announced_free_tokens(swarm, address) < 202,
                30.0,
                "the peer announces that it is full",
            )
            options = ["--max-tokens", "200", "--unavailable-timeout-s", "0.5", "--peers", address]
            done = swarm.run("generate", "demo", "Hello", *options)
        finally:
            halt.go_on.set()
        assert running.result().shape[1] > 3
    assert (done.status, done.stdout) == (1, "")
    *waiting, error = done.stderr.splitlines()
    assert waiting
    assert all(line.startswith("warning: ") for line in waiting), waiting
    assert error.startswith("error: layers 0:8: 1 peer, full (202 token rows needed)"), error
