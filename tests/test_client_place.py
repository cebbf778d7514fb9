"""A client predicts its links to peers that it has not measured from those that it has."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

import numpy as np
import pytest

from swarm.client.navigator import MOST_MEASURED, Navigator
from swarm.client.wish import ChainWish
from swarm.core.config import ClientConfig
from swarm.core.span import Span
from swarm.routing.announcement import encode
from swarm.routing.latency import DEFAULT_LINK_S, MOST_PREDICTED, LatencyTable
from swarm.routing.position import Position
from swarm.routing.records import PeerRecord
from swarm.routing.vivaldi import Coordinate
from swarm.wire.traffic import Traffic
from tests.records import MODEL, NOW, make_record
from tests.virtual_time import run

PEERS = MOST_MEASURED + 28


def swarm(seed: int) -> tuple[list[PeerRecord], list[float]]:
    """Peers that know where they are in a plane, and the client's true round trips to them."""
    rng = np.random.default_rng(seed)
    places, client = rng.uniform(0, 0.1, (PEERS, 2)), rng.uniform(0, 0.1, 2)
    records = [
        make_record(
            f"peer{n:02d}", (0, 12), seconds_per_layer=0.001, coordinate=(float(x), float(y), 0.002, 0.1)
        )
        for n, (x, y) in enumerate(places)
    ]
    return records, [float(s) + 0.005 for s in np.linalg.norm(places - client, axis=1)]


@pytest.mark.parametrize("seed", range(8))
def test_links_that_were_not_measured_are_predicted(seed: int) -> None:
    records, rtts_s = swarm(seed)
    position, table = Position(random.Random(seed).random), LatencyTable()
    table.publish(records)
    measured = [(r.peer_id, s) for r, s in zip(records, rtts_s, strict=True)][:MOST_MEASURED]
    for _ in range(4):
        position.learn(measured, {r.peer_id: r for r in records})
    table.locate("client", position.place)
    unmeasured = list(zip(records, rtts_s, strict=True))[MOST_MEASURED:]
    wrong = [abs(2 * table.link_s("client", r.peer_id) - s) / s for r, s in unmeasured]
    flat = [abs(2 * DEFAULT_LINK_S - s) / s for _, s in unmeasured]
    assert median(wrong) < 0.15
    assert median(wrong) < median(flat) / 2


@pytest.mark.parametrize("count", [PEERS, MOST_PREDICTED + 10])
def test_a_search_hears_the_same_predictions(count: int) -> None:
    records = [make_record(f"p{n}", coordinate=(n / 1000, 0.0, 0.001, 0.1)) for n in range(count)]
    table, names = LatencyTable(), [*(record.peer_id for record in records), "client"]
    table.publish(records)
    table.locate("client", Coordinate(0.0, 0.05, 0.001, 0.2))
    table.observe("client", "p3", 0.7)
    links, everyone = table.between(names), np.arange(count)
    for source, sink in ((everyone, np.full(count, count)), (np.full(count, count), everyone)):
        pairs = zip(source, sink, strict=True)
        expected = [table.link_s(names[a], names[b]) for a, b in pairs]
        assert links.between(source, sink) == pytest.approx(expected)


def test_a_place_that_is_not_known_yet_predicts_nothing() -> None:
    table = LatencyTable()
    table.publish([make_record("a", coordinate=(0.01, 0.0, 0.001, 0.1))])
    table.locate("client", Coordinate())
    assert table.link_s("client", "a") == table.link_s("a", "client") == DEFAULT_LINK_S
    table.locate("client", Coordinate(error=0.2))
    assert table.link_s("client", "a") == pytest.approx(0.0055, rel=0.01)
    table.observe("client", "a", 0.3)
    assert table.link_s("client", "a") == 0.3, "what was measured counts more"


@dataclass
class FarLink:
    peer_id: str
    rtt_s: float | None


@dataclass
class Directory:
    records: list[PeerRecord]

    def now(self) -> float:
        return NOW + 1

    async def fetch(self, keys: Sequence[str], /) -> list[bytes]:
        return [encode(record) for record in self.records]


@dataclass
class Node:
    """A node whose links take as long as it is told."""

    directory: Directory
    rtts_s: dict[str, float]
    dialled: list[Any] = field(default_factory=list)
    peer_id: str = "client"
    traffic: Traffic = field(default_factory=Traffic)

    def links(self) -> list[Any]:
        return self.dialled

    async def connect(self, peer_id: str, addresses: Sequence[str] = (), timeout_s: float = 5.0) -> Any:
        self.dialled.append(FarLink(peer_id, self.rtts_s[peer_id]))
        return self.dialled[-1]


def test_a_session_begins_at_the_nearest_peer_though_it_was_not_measured() -> None:
    records, rtts_s = swarm(1)
    near = min(range(MOST_MEASURED, PEERS), key=lambda n: rtts_s[n])
    usable = frozenset(record.peer_id for record in records[MOST_MEASURED:])

    async def first_peer() -> str:
        node = Node(Directory(records), {r.peer_id: s for r, s in zip(records, rtts_s, strict=True)})
        navigator = Navigator(node, MODEL, ClientConfig(), draw=lambda: 0.0)
        await navigator.refresh()
        assert not usable & {link.peer_id for link in node.links()}
        chain = navigator.plan(Span(0, 12), ChainWish(tokens=10, dtype="float32", only=usable))
        await asyncio.sleep(0)
        return chain.hops[0].peer_id

    chosen = run(first_peer())
    assert rtts_s[int(chosen[4:])] <= 1.5 * rtts_s[near]
    assert rtts_s[int(chosen[4:])] < median(rtts_s) / 2
