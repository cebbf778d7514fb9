"""What `swarm mcp` decides, once, at its start."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from swarm.core.config import ClientConfig, ModelConfig


@dataclass(frozen=True, slots=True)
class McpConfig:
    """Settings of one MCP server.

    Attributes:
        model: what it generates with.
        peers: addresses of nodes of the swarm.
        sessions: answers that are generated at once.
        queue: calls that may wait for their turn.
        over_http: whether clients come over HTTP, not over stdin and stdout.
        ready_file: where it is written that the server listens.
    """

    model: ModelConfig
    peers: tuple[str, ...]
    dtype: str = "auto"
    client: ClientConfig = field(default_factory=ClientConfig)
    sessions: int = 8
    queue: int = 16
    over_http: bool = False
    host: str = "127.0.0.1"
    port: int = 8001
    ready_file: Path | None = None
