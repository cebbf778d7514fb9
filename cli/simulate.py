"""`swarm simulate`: thousands of peers in virtual time, placed and moved by the policy that real ones use."""

from __future__ import annotations

from contextlib import closing
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import typer
from rich.console import Console

from swarm.cli.bench import show_report
from swarm.cli.consoles import result_console
from swarm.cli.options import command_of
from swarm.cli.simulate_settings import SimulateSettings
from swarm.core.version import VERSION

if TYPE_CHECKING:
    from swarm.sim.matrix import Matrix
    from swarm.sim.outcome import Outcome


def simulate(settings: SimulateSettings) -> None:
    """Play scenarios with many peers in virtual time, and compare with the best that any placement could serve.

    Nothing is sent and no model is loaded. The same options give the same numbers. `routed` is what callers get, of 90%
    of the best possible, on the chains that they find. Exit status 1 says that a result cannot be right.
    """
    from swarm.bench.plot import check_plot
    from swarm.bench.result_file import check_folder, write
    from swarm.sim.bound import check_solver
    from swarm.sim.plot import draw
    from swarm.sim.summary import as_json, reports

    check_solver()
    matrix = settings.matrix()
    if settings.json_file is not None:
        check_folder(settings.json_file, "--json")
    if settings.plot is not None:
        check_folder(settings.plot, "--plot")
        check_plot(settings.plot)
    found = _play(matrix, settings.jobs)
    console = result_console()
    made = reports(found)
    for report in made:
        show_report(console, report)
    if settings.json_file is not None:
        asked = asdict(matrix) | {"scenarios": [scenario.model_dump() for scenario in matrix.scenarios]}
        document: dict[str, Any] = {"versions": {"swarm": VERSION}, "settings": asked}
        document |= {"results": [report.as_json() for report in made], "runs": as_json(found)}
        write(settings.json_file, document)
    if settings.plot is not None:
        draw(found, settings.plot)
    if any(report.problems for report in made):
        raise typer.Exit(1)


def _play(matrix: Matrix, jobs: int) -> list[Outcome]:
    from swarm.sim.matrix import in_order, outcomes

    found: list[Outcome] = []
    total = len(matrix.runs())
    progress = Console(stderr=True, highlight=False)
    with progress.status("starting ...") as status, closing(outcomes(matrix, jobs)) as playing:
        for outcome in playing:
            found.append(outcome)
            status.update(f"{len(found)} of {total} runs ...")
    return in_order(found, matrix)


command = command_of(SimulateSettings, simulate)
