"""Two links joined by a socket pair: the wire without libp2p, so that a test takes milliseconds."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from swarm.core.errors import PeerError
from swarm.wire.bandwidth import Bandwidth
from swarm.wire.frames import MAX_PAYLOAD_BYTES
from swarm.wire.link import Handler, Link
from swarm.wire.messages import Hello
from tests.wire_nodes import ignore

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def stream_pair() -> tuple[Streams, Streams]:
    """Two connected streams."""
    left, right = socket.socketpair()
    return await asyncio.open_unix_connection(sock=left), await asyncio.open_unix_connection(sock=right)


def make_link(
    name: str,
    handler: Handler = ignore,
    *,
    dialled: bool,
    protocol: int = 1,
    max_payload_bytes: int = MAX_PAYLOAD_BYTES,
    bandwidth: Bandwidth | None = None,
) -> Link:
    """A link to the node `name` that still has to be greeted."""
    hello = Hello(protocol=protocol)
    return Link(
        name,
        dialled=dialled,
        handler=handler,
        hello=hello,
        max_payload_bytes=max_payload_bytes,
        bandwidth=bandwidth,
    )


@asynccontextmanager
async def running(*links: Link) -> AsyncIterator[None]:
    """The read loops of these links."""
    tasks = [asyncio.create_task(link.run()) for link in links]
    try:
        yield
    finally:
        for link in links:
            await link.close("the test ends")
        await asyncio.gather(*tasks)


@asynccontextmanager
async def link_pair(
    left: Handler = ignore, right: Handler = ignore, *, max_payload_bytes: int = MAX_PAYLOAD_BYTES
) -> AsyncIterator[tuple[Link, Link]]:
    """Two greeted, running links: `left` handles what comes to the first, `right` what comes to the second."""
    one, two = await stream_pair()
    first = make_link("right", left, dialled=True, max_payload_bytes=max_payload_bytes)
    second = make_link("left", right, dialled=False, max_payload_bytes=max_payload_bytes)
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(first.greet(one, 5.0))
        tasks.create_task(second.greet(two, 5.0))
    async with running(first, second):
        yield first, second


@asynccontextmanager
async def raw_to_link(handler: Handler = ignore) -> AsyncIterator[tuple[Link, Streams]]:
    """A running link, and the bare stream at its other end on which no Hello was sent yet."""
    one, two = await stream_pair()
    link = make_link("stranger", handler, dialled=False)

    async def live() -> None:
        with suppress(PeerError):
            await link.greet(one, 5.0)
        await link.run()

    task = asyncio.create_task(live())
    try:
        yield link, two
    finally:
        two[1].close()
        await link.close("the test ends")
        await task
