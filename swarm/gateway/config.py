"""What `swarm gateway` decides, once, at its start."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from swarm.core.config import ClientConfig, ModelConfig


@dataclass(frozen=True, slots=True)
class GatewayConfig:
    """Settings of one gateway.

    Attributes:
        peers: addresses of nodes of the swarm.
        name: what clients call the model; None takes the model's own name.
        allowed_origins: whose pages may ask from a browser, beside the gateway's own; `*` allows all.
        sessions: answers that are generated at once.
        queue: requests that may wait for their turn.
        keys: file of the API keys; None serves everybody.
        drain_s: how long running answers may take once the gateway is asked to leave.
        threads: CPU threads for one operation of the client's part.
        max_body_bytes: of one request.
        ready_file: where it is written that the gateway serves.
        speculate: `auto` drafts tokens from an answer's own text and verifies several in one pass; `off` does not.
        otlp: URL that takes traces over OTLP; None sends none.
    """

    model: ModelConfig
    peers: tuple[str, ...]
    dtype: str = "auto"
    client: ClientConfig = field(default_factory=ClientConfig)
    name: str | None = None
    host: str = "127.0.0.1"
    port: int = 8000
    allowed_origins: tuple[str, ...] = ()
    sessions: int = 16
    queue: int = 64
    keys: Path | None = None
    drain_s: float = 30.0
    threads: int = 1
    max_body_bytes: int = 8 << 20
    ready_file: Path | None = None
    speculate: Literal["auto", "off"] = "off"
    otlp: str | None = None
