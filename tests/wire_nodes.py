"""Nodes on loopback for tests of the wire: stopped whatever happens, with records of their own kind."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from typing import Any

import uvloop

from swarm.core.config import NodeConfig
from swarm.security.identity import Identity
from swarm.wire.directory import RecordClaims
from swarm.wire.link import Handler, Link
from swarm.wire.message import Message, TensorMeta
from swarm.wire.node import Node

LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop] | None] = {
    "asyncio": None,
    "uvloop": uvloop.new_event_loop,
}
SESSION = bytes(16)


def run(work: Coroutine[Any, Any, None], loop: str = "uvloop", timeout_s: float = 60.0) -> None:
    """Run a test's coroutine to its end; afterwards no other task may be left."""

    async def bounded() -> None:
        async with asyncio.timeout(timeout_s):
            await work
        left = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        assert not left, f"tasks outlived the test: {left}"

    with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
        runner.run(bounded())


def record(peer_id: str, keys: Sequence[str], issued_at: float, expires_at: float, note: str = "") -> bytes:
    """A record of the tests' own kind."""
    fields = {"peer": peer_id, "keys": list(keys), "issued": issued_at, "expires": expires_at, "note": note}
    return json.dumps(fields).encode()


def inspect(body: bytes) -> RecordClaims:
    """What such a record claims; ValueError if it is none."""
    try:
        fields = json.loads(body)
        return RecordClaims(
            str(fields["peer"]),
            tuple(map(str, fields["keys"])),
            float(fields["issued"]),
            float(fields["expires"]),
        )
    except (KeyError, TypeError) as exc:
        raise ValueError(str(exc)) from exc


async def ignore(link: Link, message: Message, payload: memoryview) -> None:
    """A handler for nodes that only talk."""


class Inbox:
    """A handler that keeps what came."""

    def __init__(self) -> None:
        self.received: asyncio.Queue[tuple[Link, Message, bytes]] = asyncio.Queue()

    async def __call__(self, link: Link, message: Message, payload: memoryview) -> None:
        self.received.put_nowait((link, message, bytes(payload)))

    async def next(self) -> tuple[Link, Message, bytes]:
        return await self.received.get()


@asynccontextmanager
async def node(
    handler: Handler = ignore,
    *,
    identity: Identity | None = None,
    peers: Sequence[str] = (),
    listen: bool = True,
    port: int = 0,
    **options: Any,
) -> AsyncIterator[Node]:
    """A node on 127.0.0.1 that takes the tests' records."""
    config = NodeConfig(host="127.0.0.1", port=port, peers=tuple(peers), listen=listen)
    options.setdefault("inspect", inspect)
    started = await Node.start(config, identity or Identity.ephemeral(), handler=handler, **options)
    try:
        yield started
    finally:
        await started.stop()


async def until(condition: Callable[[], object], what: str, timeout_s: float = 20.0) -> None:
    """Let the loop run until `condition` is true."""
    try:
        async with asyncio.timeout(timeout_s):
            while True:
                if condition():
                    return
                await asyncio.sleep(0.005)
    except TimeoutError as exc:
        raise AssertionError(f"not within {timeout_s:g} s: {what}") from exc


async def closed(link: Link) -> None:
    """Wait until a link has closed."""
    done = asyncio.Event()
    link.on_close(lambda _: done.set())
    await done.wait()


def float_meta(count: int, name: str = "hidden") -> TensorMeta:
    """A float32 tensor of `count` numbers."""
    return TensorMeta(name=name, dtype="float32", shape=[1, count])
