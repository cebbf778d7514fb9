"""`swarm simulate`, as a user runs it."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from swarm.cli import main as cli


@pytest.fixture(autouse=True)
def _plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("SWARM_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "120")


STORY = """
name: tiny
description: ten minutes of a few peers that come and go
n_layers: 8
duration_s: 600
steady_from_s: 100
peers: {layers: [2, 4], lifetime_s: 600}
"""


@pytest.mark.slow
def test_a_story_of_ones_own_gives_a_table_json_and_a_picture(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("matplotlib")
    story, found, picture = tmp_path / "tiny.yaml", tmp_path / "found.json", tmp_path / "found.svg"
    story.write_text(STORY, encoding="utf-8")
    options = ["--peers", "6,9", "--seeds", "2", "--jobs", "1", "--json", str(found), "--plot", str(picture)]
    assert cli.run(["simulate", str(story), *options]) == 0
    out = capsys.readouterr().out
    assert "6 peers" in out
    assert "9 peers" in out
    data = json.loads(found.read_text(encoding="utf-8"))
    assert len(data["runs"]) == 2 * 2 * 3
    assert [row["policy"] for row in data["results"][0]["rows"]] == ["ours", "petals", "random"]
    assert picture.stat().st_size > 1000


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["rain"], "neither a readable file nor one of"),
        (["giant", "--peers", "0"], "must be positive integers"),
        (["giant", "--plot", "x.bmp"], "the name must end with .png"),
        (["giant", "--policy", "best"], "policy"),
    ],
)
def test_bad_input_gives_one_line(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(["simulate", *arguments]) != 0
    err = capsys.readouterr().err
    assert message in err
    assert "Traceback" not in err
