"""Real links between nodes of one process: no sockets, and faults where a test wants them."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from swarm.core.errors import PeerError, PeerUnreachable
from swarm.wire.frames import Buffer
from swarm.wire.link import Handler, Link
from swarm.wire.message import Message
from swarm.wire.messages import Hello
from swarm.wire.traffic import Traffic

HIGH_WATER = 1 << 20


class MemoryTransport(asyncio.Transport):
    """One end of a pipe in memory; what is written reaches the other end's protocol in later callbacks."""

    def __init__(self, protocol: asyncio.BaseProtocol) -> None:
        super().__init__()
        self.peer: MemoryTransport
        self._loop = asyncio.get_running_loop()
        self._protocol: Any = protocol
        self._incoming: deque[bytes] = deque()
        self._incoming_bytes = 0
        self._high = HIGH_WATER
        self._writing_paused = False
        self._reading = True
        self._closing = False
        self._ended = False

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self._protocol = protocol

    def get_protocol(self) -> asyncio.BaseProtocol:
        protocol: asyncio.BaseProtocol = self._protocol
        return protocol

    def is_closing(self) -> bool:
        return self._closing

    def pause_reading(self) -> None:
        self._reading = False

    def resume_reading(self) -> None:
        self._reading = True
        self._loop.call_soon(self._deliver)

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self._high = HIGH_WATER if high is None else high
        self._regulate()

    def get_write_buffer_size(self) -> int:
        return self.peer._incoming_bytes

    def write(self, data: Buffer) -> None:
        if self._closing:
            return
        piece = bytes(data)
        self.peer._incoming.append(piece)
        self.peer._incoming_bytes += len(piece)
        self._loop.call_soon(self.peer._deliver)
        self._regulate()

    def close(self) -> None:
        if not self._closing:
            self._closing = True
            self._loop.call_soon(self.peer._deliver)
            self._loop.call_soon(self._protocol.connection_lost, None)

    def abort(self) -> None:
        self.peer._incoming.clear()
        self.peer._incoming_bytes = 0
        self.close()

    def _deliver(self) -> None:
        while self._incoming and self._reading and not self._closing:
            data = self._incoming.popleft()
            self._incoming_bytes -= len(data)
            self._feed(data)
        self.peer._regulate()
        if self.peer._closing and not self._incoming and not self._ended:
            self._ended = True
            self._protocol.eof_received()

    def _feed(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            buffer = self._protocol.get_buffer(len(view))
            count = min(len(buffer), len(view))
            buffer[:count] = view[:count]
            self._protocol.buffer_updated(count)
            view = view[count:]

    def _regulate(self) -> None:
        full = self.peer._incoming_bytes > self._high
        if full and not self._writing_paused:
            self._writing_paused = True
            self._protocol.pause_writing()
        elif not full and self._writing_paused:
            self._writing_paused = False
            self._protocol.resume_writing()


Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


def memory_streams() -> tuple[Streams, Streams]:
    """Two ends of a pipe, as hivemind would hand them out."""
    ends = []
    for _ in range(2):
        reader = asyncio.StreamReader()
        transport = MemoryTransport(asyncio.StreamReaderProtocol(reader))
        ends.append((reader, transport))
    (reader_a, a), (reader_b, b) = ends
    a.peer, b.peer = b, a
    loop = asyncio.get_running_loop()
    return (
        (reader_a, asyncio.StreamWriter(a, a.get_protocol(), reader_a, loop)),
        (reader_b, asyncio.StreamWriter(b, b.get_protocol(), reader_b, loop)),
    )


Fate = Callable[[str, str, Message], int]
"""How often a message from one node to another arrives: 0 loses it, 2 doubles it."""


class FaultyLink(Link):
    """A link that loses or doubles what `fate` says."""

    def __init__(self, own_id: str, peer_id: str, fate: Fate, *, dialled: bool, handler: Handler) -> None:
        super().__init__(peer_id, dialled=dialled, handler=handler, hello=Hello(protocol=1))
        self._own_id = own_id
        self._fate = fate

    def try_send(self, message: Message, payload: Sequence[Buffer] = ()) -> bool:
        times = self._fate(self._own_id, self.peer_id, message)
        return all(super(FaultyLink, self).try_send(message, payload) for _ in range(times))

    async def send(self, message: Message, payload: Sequence[Buffer] = ()) -> None:
        for _ in range(self._fate(self._own_id, self.peer_id, message)):
            await super().send(message, payload)


class MemoryNode:
    """A node of a `Meadow`; a `Dialer`."""

    def __init__(self, meadow: Meadow, peer_id: str, handler: Handler) -> None:
        self.peer_id = peer_id
        self.handler = handler
        self.dead = False
        self._meadow = meadow
        self._links: list[FaultyLink] = []

    def links(self) -> list[Link]:
        return [link for link in self._links if not link.closed]

    @property
    def traffic(self) -> Traffic:
        return sum((link.traffic for link in self.links()), Traffic())

    async def connect(self, peer_id: str, addresses: Sequence[str] = (), timeout_s: float = 5.0) -> Link:
        for link in self.links():
            if link.peer_id == peer_id:
                return link
        return await self._meadow.join(self, peer_id)

    def make_link(self, peer_id: str, *, dialled: bool) -> FaultyLink:
        link = FaultyLink(self.peer_id, peer_id, self._meadow.decide, dialled=dialled, handler=self.handler)
        self._links.append(link)
        return link

    async def hang_up(self, peer_id: str | None = None) -> None:
        """Close the links to one node, or all."""
        for link in self.links():
            if peer_id in (None, link.peer_id):
                await link.close("cut by the test")


class Meadow:
    """Nodes that can reach each other, but for the pairs in `walls`; runs their links in `tasks`."""

    def __init__(self, tasks: asyncio.TaskGroup) -> None:
        self._tasks = tasks
        self.nodes: dict[str, MemoryNode] = {}
        self.walls: set[frozenset[str]] = set()
        self.fate: Fate = lambda source, sink, message: 1
        self.log: list[tuple[str, str, Message]] = []

    def decide(self, source: str, sink: str, message: Message) -> int:
        self.log.append((source, sink, message))
        return self.fate(source, sink, message)

    def add(self, peer_id: str, handler: Handler) -> MemoryNode:
        node = self.nodes[peer_id] = MemoryNode(self, peer_id, handler)
        return node

    async def join(self, node: MemoryNode, peer_id: str) -> Link:
        other = self.nodes.get(peer_id)
        walled = frozenset((node.peer_id, peer_id)) in self.walls
        if other is None or other.dead or node.dead or walled or other is node:
            raise PeerUnreachable(f"{peer_id} does not answer", peer_id)
        left, right = node.make_link(peer_id, dialled=True), other.make_link(node.peer_id, dialled=False)
        one, two = memory_streams()
        try:
            await asyncio.gather(left.greet(one, 5.0), right.greet(two, 5.0))
        except PeerError as error:
            raise PeerUnreachable(str(error), peer_id) from error
        for link in (left, right):
            self._tasks.create_task(link.run())
        return left

    async def wall(self, a: str, b: str) -> None:
        """From now on these two cannot reach each other."""
        self.walls.add(frozenset((a, b)))
        await self.nodes[a].hang_up(b)

    async def kill(self, peer_id: str) -> None:
        """A node is gone, with all its links."""
        self.nodes[peer_id].dead = True
        await self.nodes[peer_id].hang_up()

    async def close(self) -> None:
        """End all links, so that their tasks end."""
        for node in self.nodes.values():
            await node.hang_up()
