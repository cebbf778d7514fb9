"""A client's way into the swarm: made in the background, while the main thread still imports and loads the model."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from swarm.client.engine import Engine
from swarm.client.inbox import Inbox
from swarm.client.navigator import Navigator
from swarm.core.config import ClientConfig, NodeConfig
from swarm.core.errors import ConfigError, SwarmUnavailable
from swarm.routing.announcement import claims, decode
from swarm.routing.records import BUCKETS, directory_key
from swarm.security.identity import Identity
from swarm.wire.address import check_peer_addresses
from swarm.wire.node import Node


@dataclass(frozen=True, slots=True)
class WantedModel:
    """Which checkpoint the peers are to serve."""

    uid: str
    name: str


@dataclass(frozen=True, slots=True)
class Arrival:
    """A client inside of the swarm. For the event loop of the engine only."""

    node: Node
    inbox: Inbox
    navigator: Navigator


class Entrance:
    """Joins the swarm of a model as soon as it is made, on a thread of its own.

    What that thread runs is imported before it starts, so that it imports nothing while another thread does: importlib
    lets one of two threads that wait for each other's modules go on with half a module.

    Args:
        peers: addresses of any nodes of the swarm.

    Raises:
        ConfigError: if there are none, or one is malformed.
    """

    def __init__(self, wanted: WantedModel, peers: tuple[str, ...], config: ClientConfig) -> None:
        if not peers:
            raise ConfigError(
                "no peers given: pass the address of any node of the swarm (peers=[...] or --peers)"
            )
        check_peer_addresses(peers)
        self._wanted = wanted
        self._config = config
        self._joining: asyncio.Task[None] | None = None
        self._refreshing: asyncio.Task[None] | None = None
        self._arrival: Arrival | None = None
        self.engine = Engine()
        self._joined = self.engine.begin(self._join(peers))

    @property
    def model_uid(self) -> str:
        """Identity of the checkpoint."""
        return self._wanted.uid

    def arrive(self) -> Arrival:
        """Wait until this client is inside and knows a peer that serves the model.

        Raises:
            NodeError: if none of the peers can be reached.
            SwarmUnavailable: if no peer serves this checkpoint.
        """
        self.engine.wait(self._joined)
        assert self._arrival is not None
        return self._arrival

    async def _join(self, peers: tuple[str, ...]) -> None:
        self._joining = asyncio.current_task()
        inbox = Inbox(self._config.coding)
        node = await Node.start(
            NodeConfig(peers=peers, host="127.0.0.1", listen=False),
            Identity.ephemeral(),
            handler=inbox.handle,
            inspect=claims,
        )
        try:
            navigator = Navigator(node, self._wanted.uid, self._config)
            await navigator.refresh()
            if not navigator.view.peers:
                raise SwarmUnavailable(await _nobody(node, self._wanted))
        except BaseException:
            await node.stop()
            raise
        self._refreshing = asyncio.create_task(navigator.run())
        self._arrival = Arrival(node, inbox, navigator)

    def close(self) -> None:
        """Leave the swarm, whether this client has arrived or is still on its way; idempotent."""
        self.engine.close(self._leave)

    async def _leave(self) -> None:
        for task in (self._joining, self._refreshing):
            if task is not None and not task.done():
                task.cancel()
                await asyncio.wait([task])
        if self._arrival is not None:
            await self._arrival.navigator.close()
            await self._arrival.node.stop()


async def _nobody(node: Node, wanted: WantedModel) -> str:
    """Why there are no peers: what the swarm serves instead."""
    bodies = await node.directory.fetch([directory_key(bucket) for bucket in range(BUCKETS)])
    others = sorted({(record.model_name, record.model_uid) for record in map(decode, bodies)})
    text = f"no peer of this swarm serves {wanted.name} (checkpoint {wanted.uid[:12]})"
    if not others:
        return (
            f"{text}: the swarm has no peers yet; start one with `swarm serve {wanted.name} --peers ADDRESS`"
        )
    served = ", ".join(f"{name} (checkpoint {uid[:12]})" for name, uid in others[:8])
    if any(name == wanted.name for name, _ in others):
        return (
            f"{text}: its peers have another checkpoint; use the same files on all machines. Served: {served}"
        )
    return f"{text}; it serves {served}"
