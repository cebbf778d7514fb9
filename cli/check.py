"""`swarm check`: is the model, cut into spans, the same as the whole one?"""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer
from rich.table import Table
from rich.text import Text

from swarm.cli.client_settings import CheckSettings
from swarm.cli.consoles import result_console
from swarm.cli.options import command_of

if TYPE_CHECKING:
    from swarm.shards.check import CheckReport


def check(settings: CheckSettings) -> None:
    """Compare a model cut into spans with the whole one, on random prompts; without a swarm.

    Exit status 0 says that the model can be served, 1 that it cannot. Models that do not fit into memory twice are
    compared on their first layers.
    """
    from swarm.shards.check import compare  # imports torch and transformers: seconds
    from swarm.shards.source import ModelSource

    source = ModelSource.open(settings.model_source())
    report = compare(
        source,
        settings.splits,
        dtype=source.dtype(settings.dtype),
        seed=settings.seed,
        max_layers=settings.max_layers,
    )
    result_console().print(result_table(report))
    typer.secho(report.verdict, fg="green" if report.ok else "red", bold=True)
    if not report.ok:
        raise typer.Exit(1)


def result_table(report: CheckReport) -> Table:
    """One row per test: did it pass, and the largest difference of logits."""
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold", pad_edge=False)
    for name in (f"test ({report.dtype})", "result", "largest difference", ""):
        table.add_column(name)
    for result in report.results:
        passed = Text("same", "green") if result.ok else Text("differs", "bold red")
        table.add_row(result.name, passed, f"{result.max_error:.1e}", Text(result.note))
    return table


command = command_of(CheckSettings, check)
