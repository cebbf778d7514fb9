"""Chains whose nodes are far from each other: any two of client and peers are `delay_s` apart, one way.

Two ways to make them. *netem*: each node in a network namespace of its own, delays by the kernel (see `namespaces`).
*relay*: each peer announces nothing but a port of the relay, which is in front of it (see `relay`). libp2p tells others
the announced addresses only, so that every connection crosses the relay; its counts of bytes prove it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import psutil

from swarm.bench.lab import SERVE_OPTIONS, Lab, cut
from swarm.bench.local_swarm import LOOPBACK, LocalPeer, LocalSwarm
from swarm.bench.namespaces import Star
from swarm.bench.relay_process import RelayProcess
from swarm.client.model import SwarmModel
from swarm.core.errors import NodeError

_LISTENING_DEADLINE_S = 120.0
_POLL_S = 0.05


@dataclass(frozen=True, slots=True)
class LongLinks:
    """A client of a chain over long links. `crossed` counts bytes that were delayed; None where nobody counts."""

    model: SwarmModel
    crossed: Callable[[], int] | None


@contextmanager
def netem(lab: Lab, peers: int, delay_s: float) -> Iterator[LongLinks]:
    """Every node in a namespace of its own, the client as the last one."""
    with Star(peers + 1, delay_s) as star, LocalSwarm() as swarm:
        way_in: list[str] = []
        for i, span in enumerate(cut(lab.layers, peers)):
            lab.tell(f"starting peer {i + 1} of {peers} in a network namespace")
            folder = str(lab.source.folder)
            peer = swarm.serve(f"peer-{i}", folder, str(span), way_in, *SERVE_OPTIONS, place=star.place(i))
            addresses = swarm.wait_ready(peer)
            way_in = way_in or addresses
        with star.inside(peers):
            model = lab.client(way_in)
        with model:
            yield LongLinks(model, None)


@contextmanager
def relayed(lab: Lab, peers: int, delay_s: float) -> Iterator[LongLinks]:
    """Every peer behind a route of the relay."""
    with RelayProcess(delay_s, peers) as relay, LocalSwarm() as swarm:
        way_in: list[str] = []
        for i, span in enumerate(cut(lab.layers, peers)):
            lab.tell(f"starting peer {i + 1} of {peers} behind the relay")
            announced = ("--no-direct", "--public-address", f"/ip4/{LOOPBACK.host}/tcp/{relay.ports[i]}")
            folder = str(lab.source.folder)
            peer = swarm.serve(f"peer-{i}", folder, str(span), way_in, *announced, *SERVE_OPTIONS)
            relay.lead(i, _listening_port(peer))
            addresses = swarm.wait_ready(peer)
            way_in = way_in or addresses
        with lab.client(way_in) as model:
            yield LongLinks(model, lambda: sum(forth + back for forth, back in relay.counts()))


def _listening_port(peer: LocalPeer) -> int:
    """The TCP port on which the peer's p2pd listens; it tells nobody else.

    Raises:
        NodeError: the peer ended, or does not listen in time.
    """
    deadline = time.monotonic() + _LISTENING_DEADLINE_S
    while peer.running and time.monotonic() < deadline:
        for helper in psutil.Process(peer.process.pid).children(recursive=True):
            for connection in _connections(helper):
                if connection.status == psutil.CONN_LISTEN:
                    return int(connection.laddr.port)
        time.sleep(_POLL_S)
    raise NodeError(f"local peer {peer.name} does not listen: {peer.log_tail()}")


def _connections(process: psutil.Process) -> list[Any]:
    try:
        return process.net_connections("tcp")
    except psutil.NoSuchProcess:
        return []
