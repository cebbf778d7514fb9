"""The state of the swarm for MCP clients: the tool `swarm_status`, and the resources `llm://...`."""

from __future__ import annotations

import json
from typing import Annotated, Any

from mcp.server.mcpserver.exceptions import ResourceError, ToolError
from pydantic import Field

from swarm.mcp_server.failure import told
from swarm.mcp_server.reach import Reach
from swarm.routing.status import PeerRow, StatusReport, as_json

ModelFilter = Annotated[
    str | None,
    Field(max_length=256, description="Name or uid of a model; left out: all models of the swarm."),
]


class SwarmState:
    """What is served by whom, now."""

    def __init__(self, reach: Reach) -> None:
        self._reach = reach

    async def swarm_status(self, model: ModelFilter = None) -> dict[str, Any]:
        """Who serves which layers of which model, how fast, with how much free cache; what is missing."""
        async with told():
            return as_json(await self._reach.reports(model))

    async def models(self) -> str:
        """The models of the swarm; `generates` marks the one that llm_inference_distributed uses."""
        own = self._reach.config.model.name.rpartition("/")[2]
        return _text(
            [
                {
                    "name": report.model_name,
                    "uid": report.model_uid,
                    "layers": report.n_layers,
                    "peers": len(report.peers),
                    "complete": report.complete,
                    "missing": [[span.start, span.end] for span in report.missing],
                    "generates": report.model_name == own,
                }
                for report in await self._look()
            ]
        )

    async def nodes(self) -> str:
        """The peers of the swarm, with what each of them serves."""
        return _text([_node(report, row) for report in await self._look() for row in report.peers])

    async def performance(self) -> str:
        """How fast layers are served, and what this server has generated."""
        writer = self._reach.open_writer
        models = [
            {
                "name": report.model_name,
                "weakest_layer": report.weakest_layer.layer if report.weakest_layer else None,
                "weakest_layer_tokens_per_s": (
                    report.weakest_layer.tokens_per_s if report.weakest_layer else None
                ),
                "longest_queue_s": max((row.queue_s for row in report.peers), default=0.0),
                "sessions": sum(row.sessions for row in report.peers),
            }
            for report in await self._look()
        ]
        own: dict[str, Any] = self._reach.tally.as_json()
        if writer is not None:
            stats = writer.model.stats
            own |= {
                "running": writer.admission.running,
                "waiting": writer.admission.waiting,
                "failovers": stats.failovers,
                "stalled_s": round(stats.stalled_s, 4),
            }
        return _text({"models": models, "this_server": own})

    async def _look(self) -> list[StatusReport]:
        try:
            async with told():
                return await self._reach.reports()
        except ToolError as error:
            raise ResourceError(str(error)) from error


def _node(report: StatusReport, row: PeerRow) -> dict[str, Any]:
    return {
        "peer_id": row.peer_id,
        "name": row.name,
        "model": report.model_name,
        "layers": [row.span.start, row.span.end],
        "state": row.state.value,
        "precision": row.precision,
        "tokens_per_s": row.tokens_per_s,
        "queue_s": row.queue_s,
        "free_tokens": row.free_tokens,
        "total_tokens": row.total_tokens,
        "sessions": row.sessions,
        "version": row.version,
    }


def _text(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, indent=2)
