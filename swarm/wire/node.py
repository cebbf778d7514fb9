"""This machine's node: its p2pd, its links to other nodes, and its part in the directory."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from contextlib import AsyncExitStack

from swarm.core.config import NodeConfig
from swarm.core.errors import NodeError
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
from swarm.wire.bandwidth import Bandwidth
from swarm.wire.daemon import Daemon, DaemonOptions, daemon_errors
from swarm.wire.directory import Directory, Inspect, RecordClaims
from swarm.wire.hivemind_log import quiet_hivemind
from swarm.wire.link import Handler, Link
from swarm.wire.messages import PROTOCOL_VERSION, Hello
from swarm.wire.node_tasks import NodeTasks
from swarm.wire.port import wait_for_port
from swarm.wire.socket_folder import SocketFolder
from swarm.wire.switchboard import Line, Switchboard
from swarm.wire.traffic import Traffic

__all__ = ["Node"]

logger = logging.getLogger(__name__)

_START_TIMEOUT_S = 30.0
_BOOTSTRAP_TIMEOUT_S = 12.0
_PING_S = 1.0


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
        self._tasks = NodeTasks()
        self._board = Switchboard(Line(identity.peer_id, handler, hello, silence_s), self._tasks)
        self._daemon: Daemon
        self._resources = AsyncExitStack()
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
        self._tasks.spawn(self._watch())
        await self._board.open(self._daemon.p2p, config.host, config.direct_port if config.listen else None)
        self.addresses = await self._find_addresses(config)
        self.directory = await Directory.join(
            self._daemon.p2p, identity, inspect, bootstrap=config.peers, serve=config.listen
        )
        self._resources.callback(self.directory.close)
        self._tasks.spawn(self._beat())
        self._tasks.spawn(self.directory.keep_joined(rejoin_s))

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
        return self._board.links()

    @property
    def traffic(self) -> Traffic:
        """Bytes over all links there ever were."""
        return self._board.traffic

    @property
    def bandwidth(self) -> Bandwidth:
        """What its links found out about this node's uplink and downlink."""
        return self._board.bandwidth

    async def connect(self, peer_id: str, addresses: Sequence[str] = (), timeout_s: float = 5.0) -> Link:
        """The link to a node; dialled unless there is one in either direction. Concurrent callers share one dial.

        Raises:
            PeerUnreachable: if it cannot be dialled.
            PeerTimeout: if that takes too long.
            PeerIncompatible: if it speaks another protocol version.
        """
        return await self._board.connect(peer_id, addresses, timeout_s)

    # life ---------------------------------------------------------------------------------------------------------

    async def wait_failed(self) -> NodeError:
        """Completes when this node cannot go on: its p2pd died. All links are closed then."""
        return await asyncio.shield(self._failed)

    async def stop(self) -> None:
        """Close the links, leave the DHT, end p2pd and remove its sockets; idempotent."""
        if self._stopping:
            return
        self._stopping = True
        await self._board.close()
        await self._tasks.end()
        await self._resources.aclose()

    async def _watch(self) -> None:
        words = await self._daemon.wait_ended()
        if self._stopping:
            return
        self._daemon.fail_calls()
        await self._board.hang_up("p2pd of this node ended")
        if not self._failed.done():
            self._failed.set_result(
                NodeError(f"p2pd, the network process of this node, ended: {words}; start it again")
            )

    async def _beat(self) -> None:
        while True:
            await asyncio.sleep(_PING_S)
            self._board.beat()


def _check(config: NodeConfig) -> None:
    if config.listen:
        listen_address(config.host, config.port)
    check_peer_addresses(config.peers)
    check_public_addresses(config.public_addresses)
