"""Options of `swarm serve`, and the `PeerConfig` they make."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Self

from pydantic import Field, model_validator

from swarm.cli.log_settings import LogSettings
from swarm.cli.setting_types import (
    Count,
    Device,
    File,
    Host,
    Layers,
    LeaseSeconds,
    Port,
    PublicAddresses,
    Seconds,
    ShortName,
    Shown,
    Switch,
    WholeNumber,
)
from swarm.cli.settings import ModelSettings, PeersSettings
from swarm.core.config import (
    BalanceConfig,
    MetricsConfig,
    NodeConfig,
    PeerConfig,
    PeerLimits,
    Precision,
    Quantization,
)

_LIMITS = PeerLimits()
_BALANCE = BalanceConfig()


class NodeSettings(PeersSettings):
    """A node that listens."""

    PANEL = "Network"

    host: Annotated[Host, Shown("IP"), Field(description="Interface to listen on.")] = "0.0.0.0"
    port: Annotated[Port, Field(description="TCP port to listen on; 0 takes any free one.")] = 0
    direct: Annotated[
        Switch, Field(description="Offer connections past libp2p, which are faster, on a second port.")
    ] = True
    direct_port: Annotated[Port, Field(description="That port; 0 takes any free one.")] = 0
    public_address: Annotated[
        PublicAddresses,
        Shown("ADDR"),
        Field(description="Address under which others reach this node; may be given several times."),
    ] = ()
    identity: Annotated[
        File | None,
        Shown(default="~/.config/swarm/identity, or identity-2, ... while a running node uses that"),
        Field(description="Key file of this node; made if missing."),
    ] = None
    ready_file: Annotated[
        File | None, Field(description="Write address and pid here, as JSON, once it serves.")
    ] = None

    def node_config(self, identity: Path) -> NodeConfig:
        return NodeConfig(
            peers=self.peers,
            host=self.host,
            port=self.port,
            public_addresses=self.public_address,
            identity_path=identity,
            direct_port=self.direct_port if self.direct else None,
        )


class LimitSettings(NodeSettings):
    """The limits of a peer: the fields of `PeerLimits`."""

    PANEL = "Limits"

    max_sessions: Annotated[Count, Field(description="Most sessions at once.")] = _LIMITS.max_sessions
    max_sessions_per_client: Annotated[Count, Field(description="Most sessions of one client at once.")] = (
        _LIMITS.max_sessions_per_client
    )
    max_batch_rows: Annotated[Count, Field(description="Most sequences in one session.")] = (
        _LIMITS.max_batch_rows
    )
    max_step_tokens: Annotated[Count, Field(description="Most tokens in one step.")] = _LIMITS.max_step_tokens
    batch_tokens: Annotated[
        Count, Field(description="Most tokens of prompts that run in one batch with other sessions.")
    ] = _LIMITS.batch_tokens
    kept_prefixes: Annotated[
        WholeNumber,
        Field(
            description="Most ended sessions whose cache is kept for prompts that begin alike; 0 for none."
        ),
    ] = _LIMITS.kept_prefixes
    share_prefixes: Annotated[
        Switch, Field(description="Keep them for all clients: only among clients that trust each other.")
    ] = _LIMITS.share_prefixes
    admission_wait_s: Annotated[
        Seconds, Field(description="How long a new session may wait for free cache, in seconds.")
    ] = _LIMITS.admission_wait_s
    idle_session_s: Annotated[Seconds, Field(description="End a session after so many idle seconds.")] = (
        _LIMITS.idle_session_s
    )
    drain_s: Annotated[
        Seconds, Field(description="After Ctrl-C, serve running sessions at most so many seconds.")
    ] = _LIMITS.drain_s
    lease_s: Annotated[
        LeaseSeconds,
        Field(description="Announcements live so many seconds, at most 30; renewed at a third."),
    ] = _LIMITS.lease_s

    @model_validator(mode="after")
    def _limits_agree(self) -> Self:
        both_given = {"max_sessions", "max_sessions_per_client"} <= self.model_fields_set
        if both_given and self.max_sessions_per_client > self.max_sessions:
            raise ValueError(
                f"--max-sessions-per-client {self.max_sessions_per_client} is more than "
                f"--max-sessions {self.max_sessions}"
            )
        return self

    def limits(self) -> PeerLimits:
        return PeerLimits(
            max_sessions=self.max_sessions,
            max_sessions_per_client=min(self.max_sessions_per_client, self.max_sessions),
            max_batch_rows=self.max_batch_rows,
            max_step_tokens=self.max_step_tokens,
            batch_tokens=self.batch_tokens,
            kept_prefixes=self.kept_prefixes,
            share_prefixes=self.share_prefixes,
            admission_wait_s=self.admission_wait_s,
            idle_session_s=self.idle_session_s,
            drain_s=self.drain_s,
            lease_s=self.lease_s,
        )


class ServeSettings(LimitSettings, ModelSettings, LogSettings):
    """`swarm serve MODEL`."""

    PANEL = "Options"

    layers: Annotated[
        Layers,
        Shown("auto|A:B", default="auto"),
        Field(description="Layers A to B-1; auto: as many as fit, where the swarm is weakest."),
    ] = None
    max_layers: Annotated[
        Count | None, Shown(default="what fits"), Field(description="With --layers auto, at most so many.")
    ] = None
    layers_file: Annotated[
        File | None,
        Field(description="With --layers A:B, move to as many other layers when they are written here."),
    ] = None
    balance: Annotated[
        Switch, Field(description="With --layers auto, move to other layers when the swarm needs it.")
    ] = _BALANCE.moves
    replicas: Annotated[
        Count, Field(description="How many peers every layer should have, for --layers auto and moves.")
    ] = _BALANCE.replicas
    review_s: Annotated[
        Seconds,
        Field(description="Ask whether to move every so many seconds; sooner when layers are missing."),
    ] = _BALANCE.review_s
    device: Annotated[Device, Shown("DEVICE"), Field(description="auto, cpu, cuda, cuda:N or mps.")] = "auto"
    dtype: Annotated[Precision, Field(description="Precision of the layers; auto: the checkpoint's own.")] = (
        "auto"
    )
    quantize: Annotated[
        Quantization | None, Field(description="Keep the weights in 8 or 4 bits (needs bitsandbytes).")
    ] = None
    cache_tokens: Annotated[
        Count | None, Shown(default="what fits"), Field(description="Tokens of KV cache, over all sessions.")
    ] = None
    threads: Annotated[
        Count | None, Shown(default="all cores"), Field(description="CPU threads for computing.")
    ] = None
    reuse_speed: Annotated[
        Switch,
        Field(
            description="Believe what this machine measured within the last hour, and keep what it measures."
        ),
    ] = True
    name: Annotated[
        ShortName | None, Shown("TEXT"), Field(description="Name that others see in `swarm status`.")
    ] = None

    metrics_port: Annotated[
        Port | None,
        Shown(default="no metrics"),
        Field(description="Serve /metrics for Prometheus on this TCP port; 0 takes any free one."),
    ] = None
    metrics_host: Annotated[
        Host,
        Shown("IP"),
        Field(description="Interface for it; whoever reaches it may read, there are no keys."),
    ] = "127.0.0.1"
    slowdown_file: Annotated[
        File | None,
        Field(
            description="For tests: computing takes as many times as long as the number in this file says."
        ),
    ] = None

    @model_validator(mode="after")
    def _options_agree(self) -> Self:
        if self.quantize and self.device == "mps":
            raise ValueError(
                f"--quantize {self.quantize} does not work with --device mps: bitsandbytes has no MPS kernels"
            )
        if self.layers is not None and self.max_layers is not None:
            raise ValueError(f"--max-layers {self.max_layers} is for --layers auto, not for {self.layers}")
        if self.layers is None and self.layers_file is not None:
            raise ValueError("--layers-file is for --layers A:B, not for --layers auto")
        if self.threads and self.device.startswith(("cuda", "mps")):
            raise ValueError(f"--threads is for --device cpu, and contradicts --device {self.device}")
        return self

    def peer_config(self, identity: Path, cache_folder: Path) -> PeerConfig:
        return PeerConfig(
            model=self.model_source(),
            node=self.node_config(identity),
            layers=self.layers,
            max_layers=self.max_layers,
            balance=BalanceConfig(moves=self.balance, replicas=self.replicas, review_s=self.review_s),
            device=self.device,
            dtype=self.dtype,
            quantize=self.quantize,
            cache_tokens=self.cache_tokens,
            threads=self.threads,
            name=self.name,
            limits=self.limits(),
            ready_file=self.ready_file,
            metrics=None
            if self.metrics_port is None
            else MetricsConfig(self.metrics_host, self.metrics_port),
            layers_file=self.layers_file,
            slowdown_file=self.slowdown_file,
            speed_file=cache_folder / "speeds.json" if self.reuse_speed else None,
            compiled_folder=cache_folder / "compiled",
        )
