"""`swarm check`: a table, a verdict, and a status that scripts can use."""

from __future__ import annotations

import pytest
from rich.console import Console

from swarm.cli import main as cli
from swarm.cli.check import result_table
from swarm.core.span import Span
from swarm.shards.check import CheckReport, CheckResult

pytestmark = pytest.mark.slow


def test_the_demo_model_can_be_served(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["check", "demo", "--splits", "2"]) == 0
    out = capsys.readouterr().out
    assert all(name in out for name in ("prefill", "decode", "rollback", "batch"))
    assert "demo can be served: split into" in out


def test_more_splits_than_layers_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["check", "demo", "--splits", "9"]) == 2
    assert capsys.readouterr().err == "error: 9 splits asked for, but only 8 layers are compared\n"


def test_a_folder_without_a_model_is_refused(capsys: pytest.CaptureFixture[str], tmp_path: str) -> None:
    assert cli.run(["check", str(tmp_path)]) == 1
    assert "has no config.json" in capsys.readouterr().err


def test_a_difference_is_shown_with_its_size() -> None:
    results = (
        CheckResult("prefill", True, 1e-7),
        CheckResult("decode", False, 0.5, "some of 16 tokens differ"),
    )
    report = CheckReport("m", (Span(0, 2),), 2, 2, "float32", results)
    console = Console(width=100, color_system=None)
    with console.capture() as capture:
        console.print(result_table(report))
    lines = capture.get().splitlines()
    assert [line.split()[:3] for line in lines[1:]] == [
        ["prefill", "same", "1.0e-07"],
        ["decode", "differs", "5.0e-01"],
    ]
