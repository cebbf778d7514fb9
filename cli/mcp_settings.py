"""Options of `swarm mcp`."""

from __future__ import annotations

from ipaddress import ip_address
from typing import Annotated, Self

from pydantic import Field, model_validator

from swarm.cli.log_settings import LogSettings
from swarm.cli.setting_types import Count, File, Host, Port, Seconds, Shown, Switch, WholeNumber
from swarm.cli.settings import ModelSettings, PeersSettings
from swarm.core.config import ClientConfig, Precision
from swarm.mcp_server.config import McpConfig

_CLIENT = ClientConfig()


class McpSettings(PeersSettings, ModelSettings, LogSettings):
    """`swarm mcp MODEL`."""

    PANEL = "Options"

    http: Annotated[Switch, Field(description="Serve over streamable HTTP, not over stdin and stdout.")] = (
        False
    )
    host: Annotated[Host, Shown("IP"), Field(description="Interface to listen on, with --http.")] = (
        "127.0.0.1"
    )
    port: Annotated[Port, Field(description="TCP port to listen on, with --http; 0 takes any free one.")] = (
        8001
    )
    open: Annotated[
        Switch, Field(description="Serve everybody who can connect, also from other machines.")
    ] = False
    sessions: Annotated[Count, Field(description="Most answers generated at once.")] = 8
    queue: Annotated[WholeNumber, Field(description="Most calls that wait for their turn.")] = 16
    ready_file: Annotated[
        File | None, Field(description="Write the URL and the pid here, as JSON, once it listens.")
    ] = None
    dtype: Annotated[Precision, Field(description="Precision of what this side computes.")] = "auto"
    unavailable_timeout_s: Annotated[
        Seconds, Field(description="How long to wait for layers that nobody serves.")
    ] = _CLIENT.unavailable_timeout_s

    @model_validator(mode="after")
    def _others_are_let_in_on_purpose(self) -> Self:
        if not (self.open or ip_address(self.host).is_loopback):
            raise ValueError(f"--host {self.host} lets other machines in: give --open if that is wanted")
        return self

    def mcp_config(self) -> McpConfig:
        return McpConfig(
            model=self.model_source(),
            peers=self.require_peers(),
            dtype=self.dtype,
            client=ClientConfig(unavailable_timeout_s=self.unavailable_timeout_s),
            sessions=self.sessions,
            queue=self.queue,
            over_http=self.http,
            host=self.host,
            port=self.port,
            ready_file=self.ready_file,
        )
