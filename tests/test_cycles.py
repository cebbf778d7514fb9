"""Start, generate, kill -9, restart, over and over: nothing may be left behind."""

from __future__ import annotations

from typing import Any

import psutil
import pytest
import torch
from transformers import AutoModelForCausalLM

from swarm import SwarmModel
from swarm.builtin import demo_path
from tests.conftest import SwarmFactory
from tests.generation import generate
from tests.swarm_records import wait_all_free

pytestmark = [pytest.mark.slow, pytest.mark.network]

CYCLES = 10


def test_ten_cycles_of_kill_and_restart_leave_nothing(swarm_factory: SwarmFactory) -> None:
    expected = generate(AutoModelForCausalLM.from_pretrained(demo_path()), "greedy", 8)
    swarm = swarm_factory()
    gateway = swarm.bootstrap()
    options = ("--threads", "1", "--cache-tokens", "2048")
    keys = [swarm.folder / "front.key", swarm.folder / "back.key"]
    files: set[int] = set()
    for cycle in range(CYCLES):
        peers = [
            swarm.serve("demo", span, *options, peers=gateway.addresses, identity=key)
            for span, key in zip(("0:4", "4:8"), keys, strict=True)
        ]
        with SwarmModel.from_pretrained("demo", peers=gateway.addresses) as model:
            assert torch.equal(generate(model, "greedy", 8), expected)
        assert wait_all_free(gateway.addresses)
        for peer in peers:
            peer.kill()
        files.add(_open_files()) if cycle else None
    assert max(files) - min(files) <= 2, f"open files of the client grow: {sorted(files)}"


def _open_files() -> int:
    process: Any = psutil.Process()
    return int(process.num_fds())
