"""Options of `swarm gateway` and `swarm gateway-key`."""

from __future__ import annotations

from ipaddress import ip_address
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from swarm.cli.log_settings import LogSettings
from swarm.cli.setting_types import (
    Count,
    File,
    Host,
    Origins,
    Port,
    Seconds,
    ShortName,
    Shown,
    Switch,
    Url,
    WholeNumber,
)
from swarm.cli.settings import ModelSettings, PeersSettings, Settings
from swarm.core.config import ClientConfig, Precision
from swarm.gateway.config import GatewayConfig

_CLIENT = ClientConfig()


class GatewaySettings(PeersSettings, ModelSettings, LogSettings):
    """`swarm gateway MODEL`."""

    PANEL = "Options"

    host: Annotated[Host, Shown("IP"), Field(description="Interface to listen on.")] = "127.0.0.1"
    port: Annotated[Port, Field(description="TCP port to listen on; 0 takes any free one.")] = 8000
    name: Annotated[
        ShortName | None,
        Shown("TEXT", default="the model's own"),
        Field(description="What clients call the model."),
    ] = None
    keys: Annotated[
        File | None,
        Shown("FILE"),
        Field(description="Serve only those who have a key of this file, see `swarm gateway-key`."),
    ] = None
    open: Annotated[
        Switch, Field(description="Serve everybody who can connect, also from other machines.")
    ] = False
    allow_origin: Annotated[
        Origins,
        Shown("ORIGIN", default="none but the gateway's own page"),
        Field(
            description="Pages that may ask from a browser, such as https://chat.example; * allows all; may be given "
            "several times."
        ),
    ] = ()
    sessions: Annotated[
        Count,
        Field(
            description="Most answers generated at once; peers allow a client 16 sessions unless served "
            "with --max-sessions-per-client."
        ),
    ] = 16
    queue: Annotated[WholeNumber, Field(description="Most requests that wait for their turn.")] = 64
    drain_s: Annotated[
        Seconds, Field(description="After Ctrl-C, let running answers end for at most so many seconds.")
    ] = 30.0
    speculate: Annotated[
        Literal["auto", "off"],
        Field(
            description="auto: draft tokens from an answer's own text and verify several in one pass, where the model "
            "can take them back and it pays: for few answers at once over slow links."
        ),
    ] = "off"
    threads: Annotated[
        Count, Field(description="CPU threads of one operation; every answer has a thread of its own.")
    ] = 1
    ready_file: Annotated[
        File | None, Field(description="Write the URL and the pid here, as JSON, once it serves.")
    ] = None
    dtype: Annotated[Precision, Field(description="Precision of what this side computes.")] = "auto"
    step_timeout_s: Annotated[
        Seconds, Field(description="How long a step may take until a peer's usual time is known.")
    ] = _CLIENT.step_timeout_s
    open_timeout_s: Annotated[
        Seconds, Field(description="How long opening a session on a peer may take.")
    ] = _CLIENT.open_timeout_s
    unavailable_timeout_s: Annotated[
        Seconds, Field(description="How long to wait for layers that nobody serves.")
    ] = _CLIENT.unavailable_timeout_s

    otlp: Annotated[
        Url | None,
        Shown("URL", default="no traces"),
        Field(
            description="Send traces over OTLP, such as to http://127.0.0.1:4318/v1/traces; needs layerswarm[otel]."
        ),
    ] = None

    @model_validator(mode="after")
    def _others_need_keys(self) -> Self:
        if self.open and self.keys is not None:
            raise ValueError("--open contradicts --keys: give one of them")
        if not (self.open or self.keys or ip_address(self.host).is_loopback):
            raise ValueError(
                f"--host {self.host} lets other machines in: give --keys FILE (see `swarm gateway-key`), or --open"
            )
        return self

    def gateway_config(self) -> GatewayConfig:
        return GatewayConfig(
            model=self.model_source(),
            peers=self.require_peers(),
            dtype=self.dtype,
            client=ClientConfig(self.step_timeout_s, self.open_timeout_s, self.unavailable_timeout_s),
            name=self.name,
            host=self.host,
            port=self.port,
            allowed_origins=self.allow_origin,
            sessions=self.sessions,
            queue=self.queue,
            keys=self.keys,
            drain_s=self.drain_s,
            speculate=self.speculate,
            threads=self.threads,
            ready_file=self.ready_file,
            otlp=self.otlp,
        )


class GatewayKeySettings(Settings):
    """`swarm gateway-key NAME`."""

    name: Annotated[
        ShortName, Shown("NAME", positional=True), Field(description="Whose key it is.", min_length=1)
    ]
    keys: Annotated[File, Shown("FILE"), Field(description="The file of keys; made if missing.")]
    requests_per_minute: Annotated[
        Count | None, Shown(default="no limit"), Field(description="Most requests in a minute.")
    ] = None
    concurrent: Annotated[
        Count | None, Shown(default="no limit"), Field(description="Most requests at once.")
    ] = None
    remove: Annotated[Switch, Field(description="Take the key of this name out of the file instead.")] = False
