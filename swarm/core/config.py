"""Settings after parsing: frozen, complete, and the only form in which the packages below `cli` see them."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

from swarm.core.span import Span

Precision = Literal["auto", "float32", "bfloat16", "float16"]
Quantization = Literal["int8", "nf4"]
LEAST_PIECE_TOKENS = 64  # token rows: clients cut no prompt into shorter pieces
Wire = Literal["model", "int8"]
Coding = Literal["int8"]
CODINGS: tuple[Coding, ...] = get_args(Coding)


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """Which checkpoint: `demo`, a local folder, or a hub id with its revision, token and cache folder."""

    name: str
    revision: str | None = None
    token: str | None = field(default=None, repr=False)
    cache_dir: Path | None = None


@dataclass(frozen=True, slots=True)
class NodeConfig:
    """One libp2p node: where it listens and whom it joins.

    `identity_path` None means a throw-away identity; `port` 0 means any free port. `direct_port` is where links that do
    without p2pd arrive, None if there shall be none.
    """

    peers: tuple[str, ...] = ()
    host: str = "0.0.0.0"
    port: int = 0
    public_addresses: tuple[str, ...] = ()
    identity_path: Path | None = None
    listen: bool = True
    direct_port: int | None = 0


@dataclass(frozen=True, slots=True)
class PeerLimits:
    """What a peer grants at most. Times in seconds."""

    max_sessions: int = 64
    max_sessions_per_client: int = 16
    max_batch_rows: int = 64
    max_step_tokens: int = 65536
    batch_tokens: int = 2048
    kept_prefixes: int = 32
    share_prefixes: bool = False
    admission_wait_s: float = 2.0
    idle_session_s: float = 300.0
    drain_s: float = 60.0
    lease_s: float = 30.0


@dataclass(frozen=True, slots=True)
class BalanceConfig:
    """Whether and how a peer moves to layers that need it more. Times in seconds.

    `replicas` is how many peers every layer should have at least; `review_s` the mean pause between reviews; `settle_s`
    how long a claim stands before it is acted upon, so that others hear of it.
    """

    moves: bool = True
    replicas: int = 1
    review_s: float = 30.0
    settle_s: float = 1.5


@dataclass(frozen=True, slots=True)
class MetricsConfig:
    """Where a page for Prometheus is served; `port` 0 means any free one."""

    host: str
    port: int


@dataclass(frozen=True, slots=True)
class PeerConfig:
    """Everything `swarm serve` decides.

    `layers` None means auto, `cache_tokens` None means what fits, `metrics` None means no page of metrics. `max_layers`
    bounds auto. Given layers are never left, whatever `balance` says, but for those that `layers_file` names later.
    `slowdown_file` is for tests: computing takes as many times as long as the number in it says. `speed_file` is where
    measured speeds are kept, `compiled_folder` where compiled functions are; None keeps none.
    """

    model: ModelConfig
    node: NodeConfig = NodeConfig()
    layers: Span | None = None
    max_layers: int | None = None
    balance: BalanceConfig = BalanceConfig()
    device: str = "auto"
    dtype: Precision = "auto"
    quantize: Quantization | None = None
    cache_tokens: int | None = None
    threads: int | None = None
    name: str | None = None
    limits: PeerLimits = PeerLimits()
    ready_file: Path | None = None
    metrics: MetricsConfig | None = None
    layers_file: Path | None = None
    slowdown_file: Path | None = None
    speed_file: Path | None = None
    compiled_folder: Path | None = None


@dataclass(frozen=True, slots=True)
class ClientConfig:
    """How a client waits, in seconds, and in which form it sends.

    `step_timeout_s` is the deadline of a step until a hop's usual time is known; later deadlines follow what that
    hop usually takes. `unavailable_timeout_s` bounds waiting for missing layers. `wire` is how activations travel: in
    the model's dtype, or rounded to int8.
    """

    step_timeout_s: float = 120.0
    open_timeout_s: float = 10.0
    unavailable_timeout_s: float = 60.0
    refresh_s: float = 5.0
    wire: Wire = "model"

    @property
    def coding(self) -> Coding | None:
        """How activations are coded on the wire; None where they travel as they are."""
        return None if self.wire == "model" else self.wire
