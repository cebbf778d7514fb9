"""An MCP server from its first client to its last, over stdin and stdout or over HTTP."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import uvicorn
from mcp.server.mcpserver import MCPServer

from swarm.core.version import VERSION
from swarm.gateway.server import QuietServer, listening
from swarm.mcp_server.config import McpConfig
from swarm.mcp_server.inference import Inference
from swarm.mcp_server.reach import Reach
from swarm.mcp_server.simulation import Simulations
from swarm.mcp_server.swarm_state import SwarmState
from swarm.peer.ready import ReadyInfo, tell_ready

PATH = "/mcp"
_DRAIN_S = 5
_ABOUT = (
    "A language model whose layers run on many machines. llm_inference_distributed lets it answer; swarm_status says "
    "who serves what; swarm_simulate plays swarms of many peers in virtual time."
)


def build(reach: Reach) -> MCPServer:
    """The tools and resources over `reach`."""
    server = MCPServer("layerswarm", instructions=_ABOUT, version=VERSION, log_level="WARNING")
    state = SwarmState(reach)
    server.add_tool(Inference(reach).llm_inference_distributed)
    server.add_tool(state.swarm_status)
    server.add_tool(Simulations().swarm_simulate)
    for read in (state.models, state.nodes, state.performance):
        uri = f"llm://{read.__name__}"
        server.resource(uri, name=read.__name__, mime_type="application/json")(read)
    return server


async def serve(config: McpConfig, on_ready: Callable[[ReadyInfo], None]) -> None:
    """Serve until the client leaves (stdin and stdout), or until SIGINT or SIGTERM (HTTP).

    Raises:
        NodeError: the port is in use.
    """
    reach = Reach(config)
    try:
        if config.over_http:
            await _serve_http(config, build(reach), on_ready)
        else:
            await build(reach).run_stdio_async()
    finally:
        await reach.close()


async def _serve_http(config: McpConfig, server: MCPServer, on_ready: Callable[[ReadyInfo], None]) -> None:
    with listening(config.host, config.port) as listener:
        port = listener.getsockname()[1]
        host = f"[{config.host}]" if ":" in config.host else config.host
        app = server.streamable_http_app(streamable_http_path=PATH, host=config.host)
        settings = uvicorn.Config(
            app, log_config=None, access_log=False, server_header=False, timeout_graceful_shutdown=_DRAIN_S
        )
        running = QuietServer(settings)
        with _stopping(running):
            info = ReadyInfo("", (f"http://{host}:{port}{PATH}",), config.model.name, None, os.getpid())
            tell_ready(info, config.ready_file)
            on_ready(info)
            await running.serve(sockets=[listener])


@contextmanager
def _stopping(server: uvicorn.Server) -> Iterator[None]:
    """SIGINT and SIGTERM: first leave in order, then at once."""
    loop = asyncio.get_running_loop()

    def stop() -> None:
        server.force_exit = server.should_exit
        server.should_exit = True

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop)
    try:
        yield
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)
