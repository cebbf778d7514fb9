"""What sessions need of a node: its name, and links to others."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from swarm.wire.link import Link
from swarm.wire.traffic import Traffic


class Dialer(Protocol):
    """The part of `swarm.wire.node.Node` that peers and clients use."""

    peer_id: str

    async def connect(self, peer_id: str, addresses: Sequence[str] = (), timeout_s: float = 5.0) -> Link:
        """See `Node.connect`."""
        ...

    def links(self) -> list[Link]:
        """See `Node.links`."""
        ...

    @property
    def traffic(self) -> Traffic:
        """See `Node.traffic`."""
        ...
