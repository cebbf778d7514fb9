"""The links of a node, one for each other node, over direct connections where there can be any."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from swarm.core.errors import PeerError, PeerTimeout, PeerUnreachable
from swarm.wire.bandwidth import Bandwidth
from swarm.wire.dialing import hosts_of, open_stream, reach
from swarm.wire.link import Handler, Link, Source
from swarm.wire.messages import Hello
from swarm.wire.node_tasks import NodeTasks
from swarm.wire.sealed import SealedConnection
from swarm.wire.shortcut import ShortcutListener, dial_shortcut, read_shortcut
from swarm.wire.traffic import Traffic

logger = logging.getLogger(__name__)

LINK_STREAM = "swarm/link"
SHORTCUT_STREAM = "swarm/shortcut"
MAX_ACCEPTED_PER_PEER = (
    8  # more than one only when both ends dial at once, or an old link is not yet known to be dead
)
_HELLO_TIMEOUT_S = 5.0
_DIRECT_HELLO_TIMEOUT_S = 2.0
_DIAL_TIMEOUT_S = 10.0


@dataclass(frozen=True, slots=True)
class Line:
    """What the links of a node have in common."""

    peer_id: str
    handler: Handler
    hello: Hello
    silence_s: float


class Switchboard:
    """Makes links and keeps them; `p2p` is hivemind's, once p2pd runs.

    Attributes:
        bandwidth: what the links found out about this node's.
    """

    def __init__(self, line: Line, tasks: NodeTasks) -> None:
        self._line = line
        self._tasks = tasks
        self._p2p: Any = None
        self._listener: ShortcutListener | None = None
        self._links: list[Link] = []
        self._dials: dict[str, asyncio.Task[Link]] = {}
        self._accepted: Counter[str] = Counter()
        self._past = Traffic()
        self.bandwidth = Bandwidth()
        self._stopping = False

    async def open(self, p2p: Any, host: str, direct_port: int | None) -> None:
        """Take links from now on; direct ones, too, unless `direct_port` is None.

        Raises:
            NodeError: if the port for direct ones is in use.
        """
        self._p2p = p2p
        await p2p.add_binary_stream_handler(LINK_STREAM, self._accept)
        if direct_port is not None:
            self._listener = await ShortcutListener.start(host, direct_port, self._accept_direct)
            await p2p.add_binary_stream_handler(SHORTCUT_STREAM, self._offer)

    def links(self) -> list[Link]:
        """All links that are open now."""
        return [link for link in self._links if not link.closed]

    @property
    def traffic(self) -> Traffic:
        """Bytes over all links there ever were."""
        return sum((link.traffic for link in self._links), self._past)

    async def connect(self, peer_id: str, addresses: Sequence[str], timeout_s: float) -> Link:
        """The link to a node; see `Node.connect`."""
        if (link := self._best_link(peer_id)) is not None:
            return link
        if peer_id == self._line.peer_id or self._stopping:
            raise PeerUnreachable(
                f"cannot dial {peer_id}: it is this node itself, or this node stops", peer_id
            )
        dial = self._dials.get(peer_id)
        if dial is None:
            dial = self._dials[peer_id] = self._tasks.spawn(self._dial(peer_id, tuple(addresses)))
            dial.add_done_callback(lambda _: self._dials.pop(peer_id, None))
        try:
            async with asyncio.timeout(timeout_s):
                return await asyncio.shield(dial)
        except TimeoutError as exc:
            raise PeerTimeout(f"peer {peer_id} could not be dialled within {timeout_s:g} s", peer_id) from exc
        except asyncio.CancelledError as exc:
            caller = asyncio.current_task()
            if (
                dial.cancelled() and caller is not None and not caller.cancelling()
            ):  # `close` cancelled the dial only
                raise PeerUnreachable(f"cannot dial {peer_id}: this node stops", peer_id) from exc
            raise

    def beat(self) -> None:
        """Called about once a second."""
        for link in self.links():
            link.beat(self._line.silence_s)

    async def hang_up(self, reason: str) -> None:
        """Close all links."""
        for link in self.links():
            await link.close(reason)

    async def close(self) -> None:
        """Close all links, and take no more."""
        self._stopping = True
        if self._listener is not None:
            self._listener.close()
        await self.hang_up("this node stops")

    def _best_link(self, peer_id: str) -> Link | None:
        """The link to use among several (both ends may have dialled at once): both ends choose the same."""
        found = [link for link in self._links if link.peer_id == peer_id and not link.closed]
        dialled_by_smaller = self._line.peer_id < peer_id
        return min(found, key=lambda link: link.dialled != dialled_by_smaller, default=None)

    # dialling -----------------------------------------------------------------------------------------------------

    async def _dial(self, peer_id: str, addresses: tuple[str, ...]) -> Link:
        await reach(self._p2p, peer_id, addresses, _DIAL_TIMEOUT_S)
        link = await self._dial_direct(peer_id)
        if link is None:
            stream = await open_stream(self._p2p, peer_id, LINK_STREAM, _DIAL_TIMEOUT_S)
            link = await self._greet(peer_id, True, stream, _HELLO_TIMEOUT_S)
        self._tasks.spawn(link.run())
        return link

    async def _dial_direct(self, peer_id: str) -> Link | None:
        """A link past p2pd; None where the other node offers none, or cannot be reached so."""
        try:
            reader, writer = await open_stream(self._p2p, peer_id, SHORTCUT_STREAM, _DIAL_TIMEOUT_S)
        except PeerUnreachable:
            return None  # it has no such stream, or cannot be reached: then the next try says so
        try:
            async with asyncio.timeout(_DIRECT_HELLO_TIMEOUT_S):
                shortcut = await read_shortcut(reader)
            connection = await dial_shortcut(shortcut, await hosts_of(self._p2p, peer_id))
        except (PeerError, EOFError, OSError, TimeoutError) as exc:
            logger.debug("no shortcut to %s: %s", peer_id, exc)
            return None
        finally:
            writer.close()
        if connection is None:
            return None
        with suppress(PeerTimeout, PeerUnreachable):  # somebody else behind the same address
            return await self._greet(peer_id, True, connection, _DIRECT_HELLO_TIMEOUT_S)
        return None

    # accepting ----------------------------------------------------------------------------------------------------

    async def _offer(self, info: Any, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """A node asks for a way past p2pd."""
        if self._listener is not None and not self._stopping:
            writer.write(self._listener.offer(str(info.peer_id)))
            with suppress(OSError):
                await writer.drain()
        writer.close()

    async def _accept(self, info: Any, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """p2pd hands over a stream that another node opened."""
        if not self._admit(str(info.peer_id), (reader, writer)):
            writer.close()

    def _accept_direct(self, peer_id: str, connection: SealedConnection) -> None:
        if not self._admit(peer_id, connection):
            connection.close()

    def _admit(self, peer_id: str, source: Source) -> bool:
        if self._stopping or self._accepted[peer_id] >= MAX_ACCEPTED_PER_PEER:
            return False
        self._accepted[peer_id] += 1
        self._tasks.spawn(self._serve_accepted(peer_id, source))
        return True

    async def _serve_accepted(self, peer_id: str, source: Source) -> None:
        try:
            await (await self._greet(peer_id, False, source, _HELLO_TIMEOUT_S)).run()
        except PeerError as exc:
            logger.info("refused a link from %s: %s", peer_id, exc)
        finally:
            self._accepted[peer_id] -= 1
            if not self._accepted[peer_id]:
                del self._accepted[peer_id]

    async def _greet(self, peer_id: str, dialled: bool, source: Source, timeout_s: float) -> Link:
        link = Link(
            peer_id,
            dialled=dialled,
            handler=self._line.handler,
            hello=self._line.hello,
            bandwidth=self.bandwidth,
        )
        await link.greet(source, timeout_s)
        self._links.append(link)
        link.on_close(self._forget)
        link.beat(self._line.silence_s)
        return link

    def _forget(self, link: Link) -> None:
        if link in self._links:
            self._links.remove(link)
            self._past += link.traffic
