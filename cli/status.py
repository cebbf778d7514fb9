"""`swarm status`: who serves which layers, once or again and again."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.console import Console
from rich.live import Live

from swarm.cli.client_settings import StatusSettings
from swarm.cli.consoles import result_console
from swarm.cli.event_loop import run_async
from swarm.cli.options import command_of
from swarm.core.errors import SwarmUnavailable

if TYPE_CHECKING:
    from swarm.client.swarm_survey import SwarmSurvey
    from swarm.routing.status import StatusReport


def status(settings: StatusSettings) -> None:
    """Show who serves which layers, how fast, with how much free cache, and which layer is the weakest."""
    settings.require_peers()
    run_async(_status(settings))


async def _status(settings: StatusSettings) -> None:
    from swarm.client.swarm_survey import SwarmSurvey  # imports hivemind

    survey = await SwarmSurvey.start(settings.require_peers())
    try:
        if settings.json_output:
            await _print_json(survey, settings)
        elif settings.watch:
            await _watch(survey, settings)
        else:
            from swarm.cli.status_table import render

            console = result_console()
            console.print(render(await survey.look(settings.model), console.width))
    finally:
        await survey.stop()


async def _print_json(survey: SwarmSurvey, settings: StatusSettings) -> None:
    from swarm.routing.status import as_json

    while True:
        print(json.dumps(as_json(await survey.look(settings.model))), flush=True)
        if not settings.watch:
            return
        await asyncio.sleep(settings.interval_s)


async def _watch(survey: SwarmSurvey, settings: StatusSettings) -> None:
    from swarm.cli.status_table import render

    known: dict[str, StatusReport] = {}
    with Live(console=result_console(), auto_refresh=False) as live:
        while True:
            try:
                reports = await survey.look(settings.model)
                _tell_happenings(live.console, known, reports)
                live.update(render(reports, live.console.width), refresh=True)
            except SwarmUnavailable as exc:  # it may come back
                live.update(str(exc), refresh=True)
            await asyncio.sleep(settings.interval_s)


def _tell_happenings(
    console: Console, known: dict[str, StatusReport], reports: Sequence[StatusReport]
) -> None:
    """Above the table, a line for whatever peers did since the last look, which `known` is brought up to."""
    from swarm.routing.happenings import happenings

    for report in reports:
        before = known.get(report.model_uid)
        for happening in happenings(before, report) if before is not None else ():
            console.print(f"{time.strftime('%H:%M:%S')} {happening}", markup=False)
        known[report.model_uid] = report


command = command_of(StatusSettings, status)
