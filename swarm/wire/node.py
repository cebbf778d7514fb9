"""This machine's node: its p2pd, its links to other nodes, and its part in the directory."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Coroutine, Sequence
from contextlib import AsyncExitStack
from typing import Any

from swarm.core.config import NodeConfig
from swarm.core.errors import NodeError, PeerError, PeerTimeout, PeerUnreachable
from swarm.security.identity import Identity
from swarm.wire.address import (
    announced_addresses,
    check_peer_addresses,
    check_public_addresses,
    listen_address,
    loopback_last,
    parse_host,
    without_peer_id,
)
from swarm.wire.daemon import Daemon, DaemonOptions, daemon_errors
from swarm.wire.dialing import open_stream
from swarm.wire.directory import Directory, Inspect, RecordClaims
from swarm.wire.hivemind_log import quiet_hivemind
from swarm.wire.link import Handler, Link
from swarm.wire.messages import PROTOCOL_VERSION, Hello
from swarm.wire.port import wait_for_port
from swarm.wire.socket_folder import SocketFolder

__all__ = ["Node"]

logger = logging.getLogger(__name__)

_STREAM_NAME = "swarm/link"
_START_TIMEOUT_S = 30.0
_BOOTSTRAP_TIMEOUT_S = 12.0
_HELLO_TIMEOUT_S = 5.0
_DIAL_TIMEOUT_S = 10.0
_PING_S = 1.0
MAX_ACCEPTED_PER_PEER = (
    8  # more than one only when both ends dial at once, or an old link is not yet known to be dead
)


def no_records(body: bytes) -> RecordClaims:
    """An inspector that accepts no record: for nodes without a directory of peers."""
    raise ValueError("this node takes no records")


class Node:
    """One libp2p node. All its tasks end with `stop`.

    Attributes:
        peer_id: this node's name.
        addresses: where others reach it, complete with `/p2p/ID`, public addresses first; empty if it does not listen.
        directory: signed records on the DHT.
    """

    def __init__(self, identity: Identity, handler: Handler, hello: Hello, silence_s: float) -> None:
        self.peer_id = identity.peer_id
        self.addresses: list[str] = []
        self.directory: Directory
        self._handler = handler
        self._hello = hello
        self._silence_s = silence_s
        self._daemon: Daemon
        self._resources = AsyncExitStack()
        self._links: list[Link] = []
        self._dials: dict[str, asyncio.Task[Link]] = {}
        self._accepted: Counter[str] = Counter()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._failed: asyncio.Future[NodeError] = asyncio.get_running_loop().create_future()
        self._stopping = False

    @classmethod
    async def start(
        cls,
        config: NodeConfig,
        identity: Identity,
        *,
        handler: Handler,
        inspect: Inspect = no_records,
        protocol: int = PROTOCOL_VERSION,
        software: str = "",
        silence_s: float = 6.0,
        rejoin_s: float = 10.0,
    ) -> Node:
        """Start a node, and join the swarm of `config.peers`.

        `handler` gets every message but heartbeats and answers; see `Link`. `inspect` reads the claims of a record.

        Raises:
            ConfigError: if an address or the port is malformed.
            NodeError: if the port is in use, p2pd does not start, or none of the peers can be reached.
        """
        quiet_hivemind()
        _check(config)
        node = cls(identity, handler, Hello(protocol=protocol, software=software), silence_s)
        try:
            await node._start(config, identity, inspect, rejoin_s)
        except daemon_errors() as exc:
            await node.stop()
            raise NodeError(f"p2pd, the network process of this node, failed at its start: {exc}") from exc
        except BaseException:
            await node.stop()
            raise
        return node

    async def _start(self, config: NodeConfig, identity: Identity, inspect: Inspect, rejoin_s: float) -> None:
        listen = listen_address(config.host, config.port) if config.listen else None
        if listen is not None:
            await wait_for_port(config.host, config.port)
        folder = await SocketFolder.create()
        self._resources.push_async_callback(folder.close)
        key_file = folder.path / "identity"
        identity.save(key_file)
        options = DaemonOptions(
            identity_file=key_file,
            listen=listen,
            announce=announced_addresses(config.host, config.port, config.public_addresses),
            bootstrap=config.peers,
            traverse_nat=config.listen and not parse_host(config.host).is_loopback,
        )
        self._daemon = await Daemon.start(
            options, folder, _BOOTSTRAP_TIMEOUT_S if config.peers else _START_TIMEOUT_S
        )
        self._resources.push_async_callback(self._daemon.stop)
        key_file.unlink()
        self._spawn(self._watch())
        await self._daemon.p2p.add_binary_stream_handler(_STREAM_NAME, self._accept)
        self.addresses = await self._find_addresses(config)
        self.directory = await Directory.join(
            self._daemon.p2p, identity, inspect, bootstrap=config.peers, serve=config.listen
        )
        self._resources.callback(self.directory.close)
        self._spawn(self._beat())
        self._spawn(self.directory.keep_joined(rejoin_s))

    async def _find_addresses(self, config: NodeConfig) -> list[str]:
        if not config.listen:
            return []
        _, visible = await self._daemon.p2p._client.identify()
        public = list(map(without_peer_id, config.public_addresses))
        found = sorted(map(str, visible), key=loopback_last)
        plain = public + [text for text in found if text not in public]
        return [f"{text}/p2p/{self.peer_id}" for text in plain if "/p2p-circuit" not in text]

    # links --------------------------------------------------------------------------------------------------------

    def links(self) -> list[Link]:
        """All links that are open now."""
        return [link for link in self._links if not link.closed]

    async def connect(self, peer_id: str, addresses: Sequence[str] = (), timeout_s: float = 5.0) -> Link:
        """The link to a node; dialled unless there is one in either direction. Concurrent callers share one dial.

        Raises:
            PeerUnreachable: if it cannot be dialled.
            PeerTimeout: if that takes too long.
            PeerIncompatible: if it speaks another protocol version.
        """
        if (link := self._best_link(peer_id)) is not None:
            return link
        if peer_id == self.peer_id or self._stopping:
            raise PeerUnreachable(
                f"cannot dial {peer_id}: it is this node itself, or this node stops", peer_id
            )
        dial = self._dials.get(peer_id)
        if dial is None:
            dial = self._dials[peer_id] = self._spawn(self._dial(peer_id, tuple(addresses)))
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
            ):  # `stop` cancelled the dial only
                raise PeerUnreachable(f"cannot dial {peer_id}: this node stops", peer_id) from exc
            raise

    def _best_link(self, peer_id: str) -> Link | None:
        """The link to use among several (both ends may have dialled at once): both ends choose the same."""
        found = [link for link in self._links if link.peer_id == peer_id and not link.closed]
        dialled_by_smaller = self.peer_id < peer_id
        return min(found, key=lambda link: link.dialled != dialled_by_smaller, default=None)

    async def _dial(self, peer_id: str, addresses: tuple[str, ...]) -> Link:
        reader, writer = await open_stream(
            self._daemon.p2p, peer_id, addresses, _STREAM_NAME, _DIAL_TIMEOUT_S
        )
        link = await self._greet(peer_id, True, reader, writer)
        self._spawn(link.run())
        return link

    async def _accept(self, info: Any, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """p2pd hands over a stream that another node opened."""
        peer_id = str(info.peer_id)
        if self._stopping or self._accepted[peer_id] >= MAX_ACCEPTED_PER_PEER:
            writer.close()
            return
        self._accepted[peer_id] += 1
        self._spawn(self._serve_accepted(peer_id, reader, writer))

    async def _serve_accepted(
        self, peer_id: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        try:
            await (await self._greet(peer_id, False, reader, writer)).run()
        except PeerError as exc:
            logger.info("refused a link from %s: %s", peer_id, exc)
        finally:
            self._accepted[peer_id] -= 1
            if not self._accepted[peer_id]:
                del self._accepted[peer_id]

    async def _greet(
        self, peer_id: str, dialled: bool, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> Link:
        link = Link(peer_id, dialled=dialled, handler=self._handler, hello=self._hello)
        await link.greet(reader, writer, _HELLO_TIMEOUT_S)
        self._links.append(link)
        link.on_close(self._forget)
        link.beat(self._silence_s)
        return link

    def _forget(self, link: Link) -> None:
        if link in self._links:
            self._links.remove(link)

    # life ---------------------------------------------------------------------------------------------------------

    async def wait_failed(self) -> NodeError:
        """Completes when this node cannot go on: its p2pd died. All links are closed then."""
        return await asyncio.shield(self._failed)

    async def stop(self) -> None:
        """Close the links, leave the DHT, end p2pd and remove its sockets; idempotent."""
        if self._stopping:
            return
        self._stopping = True
        for link in self.links():
            await link.close("this node stops")
        await self._end_tasks()
        await self._resources.aclose()

    async def _end_tasks(self) -> None:
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _watch(self) -> None:
        words = await self._daemon.wait_ended()
        if self._stopping:
            return
        self._daemon.fail_calls()
        for link in self.links():
            await link.close("p2pd of this node ended")
        if not self._failed.done():
            self._failed.set_result(
                NodeError(f"p2pd, the network process of this node, ended: {words}; start it again")
            )

    async def _beat(self) -> None:
        while True:
            await asyncio.sleep(_PING_S)
            for link in self.links():
                link.beat(self._silence_s)

    def _spawn(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._finished)
        return task

    def _finished(self, task: asyncio.Task[Any]) -> None:
        """A dial that failed after its callers had gone is no news; any other error is a bug."""
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None and not isinstance(error, PeerError):
            logger.error("a task of the node failed", exc_info=error)


def _check(config: NodeConfig) -> None:
    if config.listen:
        listen_address(config.host, config.port)
    check_peer_addresses(config.peers)
    check_public_addresses(config.public_addresses)
