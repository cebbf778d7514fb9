"""The option of the commands that run for long: how their log looks."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from swarm.cli.logs import log_as_json
from swarm.cli.settings import Settings

LogFormat = Literal["text", "json"]


class LogSettings(Settings):
    """What stands on stderr while a command runs."""

    PANEL = "Log"

    log_format: Annotated[
        LogFormat,
        Field(description="text: warnings; json: what happens, an object in each line, with session ids."),
    ] = "text"

    def start_log(self) -> None:
        """To be called first by a command that has this option."""
        if self.log_format == "json":
            log_as_json()
