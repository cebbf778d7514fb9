"""`swarm bench`: what the swarm costs and gains, measured beside the local model."""

from __future__ import annotations

import logging
from contextlib import closing
from typing import TYPE_CHECKING

import typer
from rich.console import Console
from rich.table import Table

from swarm.cli.bench_settings import BenchSettings
from swarm.cli.consoles import result_console
from swarm.cli.options import command_of

if TYPE_CHECKING:
    from swarm.bench.report import Report


def bench(settings: BenchSettings) -> None:
    """Measure a swarm of local peers beside the local model, which takes turns with it.

    One torch thread a process, float32, on this machine only. Ratios are medians of the rounds' ratios. Exit status 1
    says that tokens differed, or that something else was not as promised.
    """
    from swarm.bench.plot import check_plot
    from swarm.bench.result_file import check_folder

    if settings.json_file is not None:
        check_folder(settings.json_file, "--json")
    if settings.plot is not None:
        check_folder(settings.plot, "--plot")
        check_plot(settings.plot)
    if not logging.getLogger().isEnabledFor(logging.DEBUG):
        logging.getLogger("swarm").setLevel(logging.ERROR)  # the failovers that it provokes are its results
    if _run(settings):
        raise typer.Exit(1)


def _run(settings: BenchSettings) -> bool:
    """Measure, and show and write every report at once; whether any has problems."""
    from swarm.bench.plot import draw
    from swarm.bench.result_file import document, write
    from swarm.bench.suite import run  # imports torch, transformers and hivemind: seconds

    reports: list[Report] = []
    console, progress = result_console(), Console(stderr=True, highlight=False)
    with progress.status("starting ...") as status:
        running = run(
            settings.benchmarks,
            settings.model_name,
            settings.plan(),
            lambda text: status.update(f"{text} ..."),
        )
        with closing(running):
            for report in running:
                reports.append(report)
                show_report(console, report)
                if settings.json_file is not None:
                    write(settings.json_file, document(reports, settings.plan(), settings.model_name))
                if settings.plot is not None:
                    draw(reports, settings.plot)
    return any(report.problems for report in reports)


def show_report(console: Console, report: Report) -> None:
    """The table of a report with its notes, and what was not as promised."""
    console.print(f"[bold]{report.title}[/]", result_table(report), sep="\n")
    for note in report.notes:
        console.print(note, style="dim", soft_wrap=True)
    for problem in report.problems:
        console.print(problem, style="bold red", soft_wrap=True)
    console.print()


def result_table(report: Report) -> Table:
    """The columns of the report; numbers stand at the right."""
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold", pad_edge=False)
    for i, column in enumerate(report.columns):
        table.add_column(column.title, justify="right" if i else "left", no_wrap=not i)
    for row in report.rows:
        table.add_row(*(report.text(row, column) for column in report.columns))
    return table


command = command_of(BenchSettings, bench)
