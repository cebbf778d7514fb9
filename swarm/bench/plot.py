"""Reports drawn into one picture, a panel for each."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from swarm.bench.report import Figure, Report, number
from swarm.core.errors import ConfigError

FORMATS = (".png", ".svg", ".pdf")
_GROUP_WIDTH = 0.8


def check_plot(path: Path) -> None:
    """Find out before hours of measuring whether a plot can be drawn into `path`.

    Raises:
        ConfigError: matplotlib is missing, or the file's ending is no format for plots.
    """
    if path.suffix.lower() not in FORMATS:
        raise ConfigError(f"--plot {path}: the name must end with {', '.join(FORMATS)}")
    try:
        import matplotlib  # noqa: F401 - only whether it is there
    except ImportError as exc:
        raise ConfigError("--plot needs matplotlib: pip install 'layerswarm[bench]'") from exc


def draw(reports: Sequence[Report], path: Path) -> None:
    """Draw the panels and write the file.

    Raises:
        ConfigError: the file cannot be written.
    """
    from matplotlib.figure import Figure as Picture  # without pyplot: needs no display and leaves no state

    picture: Any = Picture(figsize=(8, 1 + 3 * len(reports)), layout="constrained")
    for axes, report in zip(picture.subplots(len(reports), squeeze=False)[:, 0], reports, strict=True):
        _panel(axes, report, report.figure)
    try:
        picture.savefig(path)
    except OSError as exc:
        raise ConfigError(f"--plot: cannot write {path}: {exc.strerror}") from exc


def _panel(axes: Any, report: Report, figure: Figure) -> None:
    """Bars of one report, and where the figure has one, a dashed line for the reference at each row."""
    titles = {column.key: column.title for column in report.columns}
    width = _GROUP_WIDTH / len(figure.bars)
    for i, key in enumerate(figure.bars):
        heights = [number(row, key) or 0.0 for row in report.rows]
        shift = (i - (len(figure.bars) - 1) / 2) * width
        bars = axes.bar([n + shift for n in range(len(heights))], heights, width, label=titles[key])
        axes.bar_label(bars, fmt="{:.3g}", fontsize=8)
    if figure.reference is not None:
        marks = [(n, number(row, figure.reference)) for n, row in enumerate(report.rows)]
        known = [(n, mark) for n, mark in marks if mark is not None]
        places, heights = [n for n, _ in known], [mark for _, mark in known]
        left, right = ([n + side * _GROUP_WIDTH / 2 for n in places] for side in (-1, 1))
        axes.hlines(heights, left, right, "black", "dashed", label=titles[figure.reference])
    axes.set_xticks(range(len(report.rows)), [str(row[figure.names]) for row in report.rows])
    axes.set_ylabel(figure.scale)
    axes.set_title(report.title, fontsize=10)
    axes.margins(y=0.15)
    if len(figure.bars) > 1 or figure.reference is not None:
        axes.legend(fontsize=8)
