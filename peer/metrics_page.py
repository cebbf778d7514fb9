"""One page over HTTP, for Prometheus: `GET /metrics`, and nothing else."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from swarm.core.config import MetricsConfig
from swarm.core.errors import NodeError

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_PATIENCE_S = 5.0
_MOST_HEAD_BYTES = 16384
_MOST_AT_ONCE = 8


@asynccontextmanager
async def metrics_page(config: MetricsConfig, exposition: Callable[[], bytes]) -> AsyncIterator[str]:
    """Serve what `exposition` returns until the context ends; the URL of the page.

    Raises:
        NodeError: the port is in use, or the address is not of this machine.
    """
    visits = 0

    async def visit(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal visits
        visits += 1
        try:
            if visits <= _MOST_AT_ONCE:
                async with asyncio.timeout(_PATIENCE_S):
                    await _answer(reader, writer, exposition)
        except (OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass  # no request came, or nobody waits for the answer
        finally:
            visits -= 1
            writer.close()

    try:
        server = await asyncio.start_server(visit, config.host, config.port, limit=_MOST_HEAD_BYTES)
    except OSError as exc:
        reason = exc.strerror or exc
        raise NodeError(
            f"cannot listen on {config.host} port {config.port}: {reason}; choose another --metrics-port"
        ) from exc
    host, port = server.sockets[0].getsockname()[:2]
    try:
        yield f"http://[{host}]:{port}/metrics" if ":" in host else f"http://{host}:{port}/metrics"
    finally:
        server.close()


async def _answer(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, exposition: Callable[[], bytes]
) -> None:
    head = await reader.readuntil(b"\r\n\r\n")
    method, _, rest = head.split(b"\r\n", 1)[0].partition(b" ")
    path = rest.split(b" ", 1)[0].partition(b"?")[0]
    if path != b"/metrics":
        status, body = "404 Not Found", b"the page is /metrics\n"
    elif method != b"GET":
        status, body = "405 Method Not Allowed", b"only GET\n"
    else:
        status, body = "200 OK", exposition()
    lines = (
        f"HTTP/1.1 {status}",
        f"Content-Type: {CONTENT_TYPE}",
        f"Content-Length: {len(body)}",
        "Connection: close",
    )
    writer.write("\r\n".join(lines).encode() + b"\r\n\r\n" + body)
    await writer.drain()
