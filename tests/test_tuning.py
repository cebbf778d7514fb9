"""The configuration finder: what takes turns, what counts as better, and that a peer takes the file."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from swarm.bench.tuning import BUDGETS, Form, Setup, Tuned, Wanted, tune
from swarm.bench.turn_taking import MOST_ROUNDS, clear_best, take_turns
from swarm.cli.serve_settings import ServeSettings
from swarm.cli.tune import config_of
from swarm.cli.tune_settings import TuneSettings
from swarm.core.config import ModelConfig
from swarm.shards.source import ModelSource
from tests.conftest import SwarmFactory


class Clock:
    def __init__(self) -> None:
        self.now_s = 0.0
        self.ran: list[str] = []

    def __call__(self) -> float:
        return self.now_s

    def trial(self, name: str, *seconds: float) -> tuple[str, object]:
        left = list(seconds)

        def run() -> float:
            took_s = left.pop(0) if len(left) > 1 else left[0]
            self.now_s += took_s
            self.ran.append(name)
            return took_s

        return name, run


def turns(clock: Clock, seconds: float, *trials: tuple[str, object]) -> dict[str, tuple[float, ...]]:
    found = take_turns(dict(trials), seconds, clock, lambda text: None)  # type: ignore[arg-type]
    return {name: times.rounds for name, times in found.items()}


def test_trials_take_turns_and_the_warm_up_does_not_count() -> None:
    clock = Clock()
    found = turns(clock, 20.0, clock.trial("a", 9.0, 2.0), clock.trial("b", 1.0))
    assert clock.ran == ["a", "b"] * 2
    assert found == {"a": (2.0,), "b": (1.0,)}


def test_no_round_begins_that_would_end_late() -> None:
    clock = Clock()
    turns(clock, 10.0, clock.trial("a", 3.0))
    assert clock.now_s == 9.0


def test_a_warm_up_that_takes_all_the_time_is_what_there_is() -> None:
    clock = Clock()
    assert turns(clock, 1.0, clock.trial("a", 5.0)) == {"a": (5.0,)}


def test_rounds_end_after_enough_of_them() -> None:
    clock = Clock()
    assert len(turns(clock, 1000.0, clock.trial("a", 0.1))["a"]) == MOST_ROUNDS


def test_what_is_not_clearly_better_is_noise() -> None:
    assert clear_best({"usual": 1.04, "other": 1.0}) == "usual"
    assert clear_best({"usual": 1.06, "other": 1.0, "third": 1.0}) == "other"


@pytest.mark.parametrize(
    "tuned", [Tuned(Form("bfloat16", "int8"), 2, 256, 16), Tuned(Form("float32"), None, 64, None)]
)
def test_a_peer_takes_the_file_as_it_was_meant(tmp_path: Path, tuned: Tuned) -> None:
    import yaml

    settings = TuneSettings.load({"model": "demo", "peers": ["/ip4/10.0.0.1/tcp/1/p2p/12D3KooWabc"]})
    file = tmp_path / "peer.yaml"
    file.write_text(yaml.safe_dump(config_of(settings, tuned)))
    served = ServeSettings.load({"config": str(file)})
    assert (served.model, served.peers) == ("demo", settings.peers)
    assert (served.dtype, served.quantize) == (tuned.form.dtype, tuned.form.quantize)
    assert (served.threads, served.batch_tokens) == (tuned.threads, tuned.batch_tokens)
    assert served.max_sessions == (tuned.max_sessions or 64)


@pytest.mark.slow
def test_everything_is_tried_with_real_layers() -> None:
    source = ModelSource.open(ModelConfig("demo"))
    wanted = Wanted((Form("float32"),), (1,), torch.device("cpu"), seconds=0.1)
    tuned, reports = tune(source, wanted, lambda text: None)
    assert tuned.form == Form("float32")
    assert tuned.batch_tokens in BUDGETS
    assert [report.benchmark for report in reports] == ["setups", "prompts", "sessions"]
    for report in reports:
        assert all(isinstance(row["speed"], float) and row["speed"] > 0 for row in report.rows)
        assert [row["chosen"] for row in report.rows].count("<") == (
            2 if report.benchmark == "prompts" else 1
        )
    assert reports[0].rows[0]["who"] == str(Setup(Form("float32"), 1))


@pytest.mark.slow
@pytest.mark.network
def test_the_command_writes_what_serve_reads_and_follows_the_swarm(swarm_factory: SwarmFactory) -> None:
    with swarm_factory() as swarm:
        file = swarm.folder / "tuned.yaml"
        common = ("tune", "demo", "--seconds", "0.1", "--threads", "1", "--out", str(file))
        done = swarm.run(*common, "--precisions", "float32")
        assert done.status == 0, done.stderr
        assert "tokens/s" in done.stdout
        again = swarm.run(*common)
        assert (again.status, "is there already" in again.stderr) == (2, True)
        peer = swarm.node("serve", "--config", str(file))
        other = swarm.run(
            *common[:-1], str(file) + "2", "--precisions", "bfloat16", "--peers", peer.addresses[0]
        )
        assert (other.status, "in float32 only" in other.stderr) == (2, True)
