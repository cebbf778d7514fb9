"""Peers as processes: started, watched, killed, and nothing left."""

from __future__ import annotations

import re
from pathlib import Path

import psutil
import pytest

from swarm.bench.local_swarm import LocalSwarm
from swarm.core.errors import NodeError

pytestmark = [pytest.mark.slow, pytest.mark.network]


def test_a_node_that_cannot_start_is_reported_with_the_end_of_its_log() -> None:
    with LocalSwarm() as swarm:
        node = swarm.start("ada", "bootstrap", "--peers", "nonsense")
        with pytest.raises(NodeError, match=r"ada ended with status 2: error: --peers: 'nonsense' is not"):
            swarm.wait_ready(node)


def test_a_node_that_is_not_ready_in_time_is_reported() -> None:
    with LocalSwarm() as swarm:
        node = swarm.start("ada", "bootstrap")
        with pytest.raises(NodeError, match="ada is not ready after 0 s"):
            swarm.wait_ready(node, timeout_s=0)
    assert not node.running


def test_killed_or_stopped_nothing_of_a_node_is_left() -> None:
    with LocalSwarm() as swarm:
        nodes = [swarm.start(name, "bootstrap") for name in ("ada", "ben")]
        addresses = [swarm.wait_ready(node)[0] for node in nodes]
        assert all(re.fullmatch(r"/ip4/127\.0\.0\.1/tcp/\d+/p2p/\w+", address) for address in addresses)
        processes = [psutil.Process(node.process.pid) for node in nodes]
        family = [*processes, *(child for process in processes for child in process.children(recursive=True))]
        folder = nodes[0].log_file.parent
        swarm.kill(nodes[0])
        nodes[0].process.wait()
    assert len(family) > 2  # each node has helpers
    assert [node.process.returncode for node in nodes] == [-9, 0]
    assert not any(process.is_running() for process in family)
    assert not folder.exists()


def test_settings_in_the_environment_are_not_for_local_peers(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("SWARM_PORT", "not a port")
    with LocalSwarm() as swarm:
        node = swarm.start("ada", "bootstrap", "--port", "70000")
        with pytest.raises(NodeError, match="--port: must be"):
            swarm.wait_ready(node)
        node = swarm.start("ben", "bootstrap")
        assert swarm.wait_ready(node)
