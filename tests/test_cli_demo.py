"""`swarm demo`, as a user runs it."""

from __future__ import annotations

import signal

import pytest

from swarm.cli.demo_play import thirds
from swarm.core.span import Span
from tests.conftest import SwarmFactory
from tests.waiting import wait_for


@pytest.mark.parametrize(
    ("layers", "spans"),
    [(8, [(0, 3), (3, 6), (6, 8)]), (3, [(0, 1), (1, 2), (2, 3)]), (10, [(0, 4), (4, 7), (7, 10)])],
)
def test_a_model_is_cut_into_three_spans(layers: int, spans: list[tuple[int, int]]) -> None:
    assert thirds(layers) == [Span(*span) for span in spans]


@pytest.mark.slow
@pytest.mark.network
def test_the_demo_loses_a_peer_and_tells_the_same_story(swarm_factory: SwarmFactory) -> None:
    done = swarm_factory().run("demo", "--max-tokens", "60", deadline_s=180.0)
    assert (done.status, done.stderr) == (0, ""), done.stderr
    assert "killed]" in done.stdout
    assert "The same 60 tokens as from the local model" in done.stdout
    assert "1 failover" in done.stdout
    assert done.stdout.endswith("All peers have left; no process and no file remains.\n")


@pytest.mark.slow
@pytest.mark.network
def test_the_demo_leaves_nothing_behind_when_it_is_interrupted(swarm_factory: SwarmFactory) -> None:
    swarm = swarm_factory()  # checks for what is left when it ends
    demo = swarm.start("demo")
    wait_for(lambda: demo.status is not None or "killed]" in demo.log, 180.0, "a peer is killed")
    demo.terminate()
    assert demo.wait(30.0) == 128 + signal.SIGTERM
