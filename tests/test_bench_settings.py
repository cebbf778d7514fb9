"""Options of `swarm bench`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from swarm.bench.lab import Lab, cut
from swarm.bench.wan import carried_bytes, choose
from swarm.cli.bench_settings import BenchSettings
from swarm.core.errors import ConfigError
from swarm.core.span import Span


@pytest.fixture(autouse=True)
def _plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("SWARM_")]:
        monkeypatch.delenv(name)


def test_without_options_everything_is_as_help_says() -> None:
    settings = BenchSettings.load({"which": "all"})
    assert settings.model_name == "A"
    assert settings.benchmarks == (
        "decode",
        "long",
        "prefill",
        "concurrency",
        "batching",
        "fairness",
        "prefix",
        "failover",
        "wan",
        "wire",
        "start",
        "memory",
    )
    plan = settings.plan()
    assert (plan.peers, plan.swarms, plan.rounds, plan.tokens, plan.prompt) == (3, 3, 5, 64, None)
    assert (plan.sessions, plan.delay_s, plan.network) == ((1, 4, 16), 0.025, "auto")


def test_options_reach_the_plan() -> None:
    flags = {"which": "wan", "peer_count": "2", "sessions": ["2,8"], "delay_ms": "100", "network": "relay"}
    settings = BenchSettings.load(flags | {"size": "B", "tokens": "8", "prompt": "32"})
    plan = settings.plan()
    assert (settings.benchmarks, settings.model_name) == (("wan",), "B")
    assert (plan.peers, plan.sessions, plan.delay_s, plan.network) == (2, (2, 8), 0.1, "relay")
    assert (plan.tokens, plan.prompt) == (8, 32)


@pytest.mark.parametrize(
    ("flags", "complaint"),
    [
        ({}, "WHICH is missing: give it on the command line"),
        ({"which": "speed"}, "WHICH: must be 'decode', 'long', 'prefill', "),
        ({"which": "all", "size": "C"}, "--size: must be 'tiny', 'A' or 'B'"),
        ({"which": "all", "size": "A", "model": "demo"}, "--size A contradicts --model demo"),
        ({"which": "all", "peer_count": "0"}, "--peers: must be a positive integer"),
        ({"which": "all", "tokens": "3"}, "--tokens: must be greater than or equal to 4"),
        ({"which": "all", "sessions": ["1,x"]}, "--sessions: must be positive integers, such as 1,4,16"),
        ({"which": "all", "delay_ms": "-1"}, "--delay-ms: must be milliseconds from 0 to 10000"),
        ({"which": "all", "network": "wifi"}, "--network: must be 'auto', 'netem' or 'relay'"),
    ],
)
def test_a_wrong_option_is_one_line(flags: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ConfigError) as caught:
        BenchSettings.load(flags)
    assert complaint in str(caught.value)


def test_a_model_cannot_be_cut_into_more_spans_than_layers() -> None:
    assert cut(8, 3) == [Span(0, 3), Span(3, 5), Span(5, 8)]
    with pytest.raises(ConfigError, match="--peers 5: the model has only 4 layers"):
        cut(4, 5)


def test_nothing_is_downloaded_for_a_benchmark(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--model some/model: give demo or the folder of a model"):
        Lab.open("some/model", tmp_path, tell=lambda text: None)


def test_the_relay_is_used_where_it_is_asked_for() -> None:
    assert choose("relay")[1] == "Delays by a TCP relay on loopback (as asked)."


def test_every_hop_gets_every_position_and_the_client_one_for_each_token() -> None:
    assert carried_bytes(peers=3, prompt=16, tokens=4, hidden=10) == (3 * 19 + 4) * 40
