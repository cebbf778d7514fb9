"""What others may see of a peer while it runs: its tally always, and a page for Prometheus where one is wanted."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from swarm.core.config import MetricsConfig
from swarm.peer.metrics_page import metrics_page
from swarm.peer.service import Service
from swarm.peer.tally import Tally
from swarm.wire.node import Node

if TYPE_CHECKING:
    from swarm.peer.metrics import PeerMetrics


class Watch:
    """Made by `watched`.

    Attributes:
        tally: what the peer counts.
        url: of the page; None if there is none.
    """

    def __init__(self, tally: Tally, metrics: PeerMetrics | None, url: str | None) -> None:
        self.tally = tally
        self.url = url
        self._metrics = metrics

    def joined(self, node: Node) -> None:
        """The node runs."""
        if self._metrics is not None:
            self._metrics.joined(node.links, lambda: node.traffic)

    def serving(self, service: Service, **info: str) -> None:
        """A shard is loaded, or another one instead; `info` says which."""
        if self._metrics is not None:
            self._metrics.serving(service, **info)


@asynccontextmanager
async def watched(config: MetricsConfig | None) -> AsyncIterator[Watch]:
    """From before the peer loads to its end.

    Raises:
        NodeError: the page's port cannot be used.
    """
    tally = Tally()
    if config is None:
        yield Watch(tally, None, None)
        return
    from swarm.peer.metrics import PeerMetrics  # prometheus_client: for those alone who want it

    metrics = PeerMetrics(tally)
    async with metrics_page(config, metrics.exposition) as url:
        yield Watch(tally, metrics, url)
