"""Which part of the work a sampled stack belongs to."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from swarm.bench.sampler import OTHER, Sampler, check_sampler, counted, place_of
from swarm.core.errors import ConfigError, SwarmError


def test_the_innermost_known_frame_tells_the_place() -> None:
    stack = ["<module> (main.py:1)", "forward (swarm/shards/products.py:60)", "dot (numpy/core/multi.py:7)"]
    assert place_of(stack) == "products with weights"
    assert place_of([*stack, "extend (swarm/shards/room.py:41)"]) == "cache"
    assert place_of(["loop (swarm/peer/executor.py:69)"]) == "hand-over between threads"
    assert place_of(["submit (swarm/peer/worker.py:90)"]) == "peer: checks and queue"
    assert place_of(["main (elsewhere.py:1)"]) == OTHER


def test_counts_of_stacks_at_one_place_add_up() -> None:
    lines = ["a (swarm/wire/link.py:1);b (msgpack/ext.py:2) 3", "c (swarm/wire/node.py:9) 4", "d (x.py:1) 1"]
    assert counted(lines) == {"links and event loop": 7, OTHER: 1}


def test_without_py_spy_it_is_said_how_to_get_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    with pytest.raises(ConfigError, match=r"pip install 'layerswarm\[bench\]'"):
        check_sampler()


@pytest.mark.slow
def test_a_process_that_does_not_exist_cannot_be_looked_at(tmp_path: Path) -> None:
    try:
        check_sampler()
    except ConfigError as error:
        pytest.skip(str(error))
    with pytest.raises(SwarmError, match="could not look at"):
        Sampler(2**22 - 1, 1, tmp_path / "stacks").samples()
