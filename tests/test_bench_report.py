"""Results of benchmarks as table, JSON and plot."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from rich.console import Console

from swarm.bench.plan import Plan
from swarm.bench.plot import check_plot, draw
from swarm.bench.report import Column, Figure, Report, Row, number
from swarm.bench.result_file import check_folder, document, write
from swarm.cli.bench import result_table
from swarm.cli.consoles import result_console
from swarm.core.errors import ConfigError, SwarmError

REPORT = Report(
    "decode",
    "Decode",
    (Column("who", "decode"), Column("rate", "tokens/s", 1), Column("ratio", "of local")),
    (
        {"who": "local", "rate": 153.26, "ratio": None},
        {"who": "3 peers", "rate": 120.0, "ratio": 0.7831, "ratios": (0.7, 0.8)},
    ),
    Figure("who", ("rate",), "tokens/s", reference="ratio"),
    notes=("A note.",),
    problems=("one thing",),
)


def test_the_table_has_a_row_each_and_rounds_to_the_columns_digits(
    capsys: pytest.CaptureFixture[str],
) -> None:
    Console(width=80).print(result_table(REPORT))
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines == [
        ["decode", "tokens/s", "of", "local"],
        ["local", "153.3"],
        ["3", "peers", "120.0", "0.78"],
    ]


def test_json_has_what_the_table_leaves_out(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    write(path, document([REPORT], Plan(rounds=2), "tiny"))
    found = json.loads(path.read_text())
    assert (found["model"], found["settings"]["rounds"]) == ("tiny", 2)
    assert {"swarm", "python", "torch", "transformers"} == set(found["versions"])
    (result,) = found["results"]
    assert result["rows"][1] == {"who": "3 peers", "rate": 120.0, "ratio": 0.7831, "ratios": [0.7, 0.8]}
    assert result["columns"]["rate"] == "tokens/s"
    assert (result["notes"], result["problems"]) == (["A note."], ["one thing"])
    assert [file.name for file in tmp_path.iterdir()] == ["results.json"]


def test_several_numbers_stand_in_one_cell() -> None:
    assert REPORT.text({"rate": (1.25, 2.0)}, Column("rate", "", 1)) == "1.2 2.0"


def test_text_is_not_drawn() -> None:
    assert number({"rate": 3}, "rate") == 3.0
    assert number({}, "rate") is None
    with pytest.raises(SwarmError, match="'fast' is no number"):
        number({"rate": "fast"}, "rate")


def test_a_file_that_cannot_be_written_is_known_beforehand(tmp_path: Path) -> None:
    check_folder(tmp_path / "results.json", "--json")
    for path in (tmp_path / "missing" / "results.json", tmp_path):
        with pytest.raises(ConfigError, match="--json: cannot write"):
            check_folder(path, "--json")


def test_a_plot_needs_a_format_and_matplotlib(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=r"must end with \.png, \.svg, \.pdf"):
        check_plot(tmp_path / "plot.txt")
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ConfigError, match=r"pip install 'layerswarm\[bench\]'"):
        check_plot(tmp_path / "plot.png")


@pytest.mark.slow
def test_a_plot_has_a_panel_for_each_report(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    path = tmp_path / "plot.svg"
    draw([REPORT, REPORT], path)
    assert path.read_text().count('id="axes_') == 2
    with pytest.raises(ConfigError, match="--plot: cannot write"):
        draw([REPORT], tmp_path / "missing" / "plot.svg")


def test_tables_that_go_into_a_file_are_wide(capsys: pytest.CaptureFixture[str]) -> None:
    columns = [Column("who", "what was measured"), *(Column(f"n{i}", f"column {i}") for i in range(9))]
    row: Row = {"who": "a rather long name", **{f"n{i}": "0.28 to 0.74" for i in range(9)}}
    result_console().print(result_table(Report("x", "x", tuple(columns), (row,), Figure("who", (), ""))))
    assert capsys.readouterr().out.count("0.28 to 0.74") == 9
