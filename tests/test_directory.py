"""The directory: records are found at once, withdrawn at once, and nobody else's word counts."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import asynccontextmanager
from typing import Any

import msgpack
import pytest

from swarm.core.errors import NodeError
from swarm.security.identity import Identity
from swarm.security.signed import seal
from swarm.wire.dht_search import nearest, search
from swarm.wire.directory import Directory
from swarm.wire.node import Node
from swarm.wire.record_gate import MAX_BODY_BYTES, RecordGate, key_hash
from tests.wire_nodes import inspect, node, record, run, until

KEYS = ("models/a", "directory")
ME, OTHER = Identity(b"m" * 32), Identity(b"o" * 32)
NOW = 1_000_000.0
network = pytest.mark.network
slow = pytest.mark.slow


# the gate -------------------------------------------------------------------------------------------------------------


def packed(value: object) -> bytes:
    data: bytes = msgpack.packb(value, use_bin_type=True)
    return data


def admits(
    *,
    body: bytes | None = None,
    signer: Identity = ME,
    value: bytes | None = None,
    key: bytes = key_hash(KEYS[0]),
    subkey: bytes = packed(ME.peer_id),
    expiration: float = NOW + 20,
    now: float = NOW,
) -> bool:
    """What the gate says to a record that is valid but for what is given."""
    good = record(ME.peer_id, KEYS, NOW, NOW + 20)
    sealed = packed(seal(good if body is None else body, signer)) if value is None else value
    return RecordGate(inspect).admits(key, subkey, sealed, expiration, now)


def test_a_valid_record_is_admitted_under_each_of_its_keys() -> None:
    assert all(admits(key=key_hash(key)) for key in KEYS)


SEALED = seal(record(ME.peer_id, KEYS, NOW, NOW + 20), ME)
LONG = record(ME.peer_id, KEYS, NOW, NOW + 20, note="x" * MAX_BODY_BYTES)
REFUSED: dict[str, dict[str, Any]] = {
    "no subkey": {"subkey": packed(None)},
    "an empty subkey": {"subkey": b""},
    "another's subkey": {"subkey": packed(OTHER.peer_id)},
    "a subkey of bytes": {"subkey": packed(ME.peer_id.encode())},
    "another key": {"key": key_hash("models/b")},
    "another signer": {"signer": OTHER},
    "a record of another": {"body": record(OTHER.peer_id, KEYS, NOW, NOW + 20)},
    "a longer lease than signed": {"expiration": NOW + 25},
    "a shorter lease than signed": {"expiration": NOW + 19},
    "an expiration that is no number": {"expiration": float("nan")},
    "a lease over the limit": {"body": record(ME.peer_id, KEYS, NOW, NOW + 31), "expiration": NOW + 31},
    "a lease far in the future": {"now": NOW - 14},
    "a lease of no time": {"body": record(ME.peer_id, KEYS, NOW + 20, NOW + 20)},
    "too many bytes": {"body": LONG},
    "no seal": {"value": packed(b"x" * 200)},
    "an unpacked seal": {"value": SEALED},
    "a text": {"value": packed("x" * 200)},
    "a list": {"value": packed([SEALED])},
    "nothing": {"value": b""},
    "no record": {"body": b"{}"},
    "no json": {"body": b"\xff"},
    "a broken seal": {"value": packed(SEALED[:-1] + b"!")},
    "a key that is no text": {"body": record(ME.peer_id, ["\ud800"], NOW, NOW + 20)},
}


@pytest.mark.parametrize("change", REFUSED.values(), ids=REFUSED)
def test_an_invalid_record_is_refused(change: dict[str, Any]) -> None:
    assert not admits(**change)


def test_small_differences_between_clocks_are_forgiven() -> None:
    assert admits(body=record(ME.peer_id, KEYS, NOW, NOW + 30), expiration=NOW + 30, now=NOW - 2.9)
    assert admits(now=NOW + 20.5)


# the search -----------------------------------------------------------------------------------------------------------


class FakeNetwork:
    """Nodes 0 .. count - 1 at random places, each knowing a few others and the values near to it; some are silent."""

    def __init__(self, rng: random.Random, count: int, silent: int = 0) -> None:
        self.places = {rng.getrandbits(32): node for node in range(count)}
        ids = list(self.places)
        self.known = [set(nearest(ids, own, 8)) | set(rng.sample(ids, 3)) for own in ids]
        self.silent = set(rng.sample(range(count), silent))
        self.holders: dict[int, list[int]] = {}
        self.questions = 0

    def store(self, key: int) -> None:
        self.holders[key] = [self.places[place] for place in nearest(self.places, key, 5)]

    async def ask(self, node: int, keys: Collection[int]) -> dict[int, tuple[object, dict[int, int]]] | None:
        self.questions += 1
        await asyncio.sleep(0)
        if node in self.silent:
            return None
        neighbours = {place: self.places[place] for place in self.known[node]}
        return {key: (key if node in self.holders.get(key, ()) else None, neighbours) for key in keys}


@pytest.mark.parametrize("seed", range(5))
def test_a_search_finds_every_copy_that_a_responsive_node_holds(seed: int) -> None:
    async def scenario() -> None:
        rng = random.Random(seed)
        network = FakeNetwork(rng, 60, silent=10)
        keys = [rng.getrandbits(32) for _ in range(8)]
        for key in keys[:-1]:
            network.store(key)
        start = {place: node for place, node in network.places.items() if node < 5}
        found = await search(network.ask, start, keys)
        for key in keys:
            alive = set(network.holders.get(key, ())) - network.silent
            assert found.values.count(key) == len(alive)
        assert not network.silent & set(found.nodes.values())

    run(scenario())


def test_a_search_without_anybody_to_ask_finds_nothing() -> None:
    async def scenario() -> None:
        assert await search(FakeNetwork(random.Random(0), 20).ask, {}, [1, 2]) == ([], {})

    run(scenario())


def test_a_liar_who_names_ever_nearer_nodes_does_not_keep_a_search_busy() -> None:
    async def scenario() -> None:
        asked = 0

        async def ask(peer: int, keys: Collection[int]) -> dict[int, tuple[object, dict[int, int]]]:
            nonlocal asked
            asked += 1
            await asyncio.sleep(0)
            return {key: (None, {asked * 100 + n: asked * 100 + n for n in range(50)}) for key in keys}

        await search(ask, {0: 0}, [1 << 30])
        assert asked < 500

    run(scenario())


# the DHT --------------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def swarm(count: int) -> AsyncIterator[list[Node]]:
    """Nodes that know each other through the first one."""
    async with contextlib.AsyncExitStack() as stack:
        nodes = [await stack.enter_async_context(node())]
        for _ in range(count - 1):
            nodes.append(await stack.enter_async_context(node(peers=nodes[0].addresses)))
        yield nodes


async def fetched(who: Node) -> list[bytes]:
    """What a node finds as soon as it finds anything."""
    while True:
        if found := await who.directory.fetch(KEYS):
            return found
        await asyncio.sleep(0.02)


async def announce(
    who: Node, note: str = "", *, lease_s: float = 20.0, keys: Sequence[str] = KEYS
) -> tuple[bytes, bool]:
    now = who.directory.now()
    body = record(who.peer_id, keys, now, now + lease_s, note)
    return body, await who.directory.publish(keys, body, now + lease_s)


@network
@slow
def test_what_is_published_is_found_at_once_under_every_key_once() -> None:
    async def scenario() -> None:
        async with swarm(4) as nodes, node(peers=nodes[0].addresses, listen=False) as reader:
            published = [await announce(who) for who in nodes]
            assert all(stored for _, stored in published)
            for who in (*nodes, reader):
                assert sorted(await who.directory.fetch(KEYS)) == sorted(body for body, _ in published)
                assert len(await who.directory.fetch(KEYS[:1])) == 4
            assert await reader.directory.fetch(["models/b"]) == []

    run(scenario())


@network
@slow
def test_a_newer_record_replaces_an_older_one_at_once_and_never_the_reverse() -> None:
    async def scenario() -> None:
        async with swarm(3) as nodes:
            await announce(nodes[1], "online", lease_s=20.0)
            await nodes[2].directory.fetch(KEYS)
            left, stored = await announce(nodes[1], "left", lease_s=25.0)
            assert stored
            for who in nodes:
                assert await who.directory.fetch(KEYS) == [left]
            _, stored = await announce(nodes[1], "online", lease_s=15.0)
            assert not stored
            for who in nodes:
                assert await who.directory.fetch(KEYS) == [left]

    run(scenario())


@network
@slow
def test_a_node_that_only_asks_can_publish_too() -> None:
    async def scenario() -> None:
        async with swarm(2) as nodes, node(peers=nodes[0].addresses, listen=False) as client:
            body, stored = await announce(client)
            assert stored
            assert await nodes[1].directory.fetch(KEYS) == [body]

    run(scenario())


@network
@slow
def test_a_record_ends_with_its_lease() -> None:
    async def scenario() -> None:
        async with swarm(2) as nodes:
            body, _ = await announce(nodes[0], lease_s=1.0)
            assert await nodes[1].directory.fetch(KEYS) == [body]
            ends = nodes[0].directory.now() + 1.0
            await until(lambda: nodes[0].directory.now() > ends, "the end of the lease")
            assert await nodes[1].directory.fetch(KEYS) == []

    run(scenario())


@network
@slow
def test_records_survive_the_death_of_the_node_they_came_through() -> None:
    async def scenario() -> None:
        async with swarm(4) as nodes:
            body, _ = await announce(nodes[1])
            await nodes[0].stop()
            assert await nodes[3].directory.fetch(KEYS) == [body]
            other, stored = await announce(nodes[2])
            assert stored
            assert sorted(await nodes[3].directory.fetch(KEYS)) == sorted([body, other])

    run(scenario())


@network
@slow
def test_a_bootstrap_node_that_was_restarted_is_told_of_the_others_again() -> None:
    async def scenario() -> None:
        identity = Identity.ephemeral()
        async with node(identity=identity) as first:
            port = int(first.addresses[0].split("/")[4])
            async with node(peers=first.addresses, rejoin_s=0.1) as second:
                body, _ = await announce(second)
                await first.stop()
                async with node(identity=identity, port=port) as again:
                    assert await fetched(again) == [body]

    run(scenario())


@network
@slow
def test_a_node_that_lost_sight_of_everybody_asks_its_bootstrap_again() -> None:
    async def scenario() -> None:
        async with swarm(2) as nodes, node(peers=nodes[0].addresses, listen=False) as client:
            body, _ = await announce(nodes[1])
            table = client.directory._dht.protocol.routing_table
            for lost in list(table.uid_to_peer_id):
                del table[lost]
            assert await client.directory.fetch(KEYS) == [body]

    run(scenario())


@network
@slow
def test_a_bootstrap_that_is_no_node_of_a_swarm_is_named() -> None:
    async def scenario() -> None:
        async with node(listen=True) as first:
            await first.directory._dht.shutdown()
            with pytest.raises(NodeError, match="answers as a node of a swarm") as caught:
                async with node(peers=first.addresses):
                    pass
            assert first.peer_id in str(caught.value)

    run(scenario())


# the forger -----------------------------------------------------------------------------------------------------------


class Forger:
    """A node that stores what it likes, directly at every other node and in its own storage."""

    def __init__(self, own: Node, victims: Sequence[Node]) -> None:
        self._dht = own.directory._dht
        self._victims = victims

    async def store(
        self, key: str, subkey: object, value: object, expiration: float
    ) -> list[list[bool] | None]:
        """Plant a value everywhere; what the other nodes answer."""
        from hivemind.dht.routing import DHTID

        protocol, key_id = self._dht.protocol, DHTID.generate(key)
        data = value if isinstance(value, bytes) else packed(value)
        protocol.record_validator = None
        protocol.storage.clear()
        if subkey is None:
            protocol.storage.store(key_id, data, expiration)
        else:
            protocol.storage.store_subkey(key_id, subkey, data, expiration)
        return [
            await protocol.call_store(victim.directory._dht.peer_id, [key_id], [data], expiration, [subkey])
            for victim in self._victims
        ]


@network
@slow
def test_a_forger_is_heard_by_nobody_and_the_honest_record_stays() -> None:
    async def scenario() -> None:
        async with swarm(3) as nodes, node(peers=nodes[0].addresses) as bad:
            honest, _ = await announce(nodes[1])
            claims, victim = inspect(honest), nodes[1].peer_id
            now, own = claims.issued_at, Identity.ephemeral()
            genuine = await _stored_value(nodes[0], victim)
            longer = claims.expires_at + 9
            foreign = seal(record(victim, KEYS, now, longer), own)
            forger = Forger(bad, nodes)
            attacks: list[tuple[str, object, object, float]] = [
                (KEYS[0], victim, foreign, longer),  # in the victim's name, signed by the forger
                (
                    KEYS[0],
                    victim,
                    seal(record(own.peer_id, KEYS, now, longer), own),
                    longer,
                ),  # in the victim's place
                (KEYS[0], victim, genuine, longer),  # the victim's own record, prolonged
                ("models/b", victim, genuine, claims.expires_at),  # ... under another model
                (KEYS[0], own.peer_id, genuine, claims.expires_at),  # ... under the forger's name
                (KEYS[0], None, genuine, longer),  # in place of all records
                (KEYS[0], victim, b"garbage", longer),
                (KEYS[0], "x" * 5000, b"garbage", longer),
                (KEYS[0], 7, {"more": ["garbage"]}, longer),
                (KEYS[0], ("a", 1), [genuine], longer),
                (KEYS[0], victim, foreign, float("inf")),
            ]
            for attack in attacks:
                answers = await forger.store(*attack)
                assert not any(stored for answer in answers for stored in answer or []), attack
                for reader in nodes:
                    assert await reader.directory.fetch(KEYS) == [honest], attack
                    assert await reader.directory.fetch(["models/b"]) == []
            renewed, stored = await announce(nodes[1], "renewed", lease_s=29.0)
            assert stored
            for reader in nodes:
                assert await reader.directory.fetch(KEYS) == [renewed]

    run(scenario())


async def _stored_value(who: Node, peer_id: str) -> bytes:
    """A peer's sealed record as a node stores it."""
    from hivemind.dht.routing import DHTID

    entry = who.directory._dht.protocol.storage.get(DHTID.generate(KEYS[0]))
    sealed = msgpack.unpackb(entry.value.get(peer_id).value)
    assert isinstance(sealed, bytes)
    return sealed


@network
@slow
def test_answers_of_a_wrong_shape_do_not_hold_up_a_reader() -> None:
    async def scenario() -> None:
        from hivemind.dht.routing import DHTID
        from hivemind.dht.storage import DictionaryDHTValue

        async with swarm(2) as nodes, node(peers=nodes[0].addresses) as bad:
            honest, _ = await announce(nodes[1])
            protocol = bad.directory._dht.protocol
            protocol.record_validator = None
            odd = DictionaryDHTValue()
            odd.maxsize = "many"
            with odd.freeze():
                odd.store(nodes[1].peer_id, packed(7), 1e300)
            protocol.storage.clear()
            with protocol.storage.freeze():
                protocol.storage.store(DHTID.generate(KEYS[0]), odd, 1e300)
                assert await nodes[0].directory.fetch(KEYS) == [honest]

    run(scenario())


@network
@slow
def test_a_node_that_hangs_costs_a_reader_little() -> None:
    async def scenario() -> None:
        async with swarm(3) as nodes:
            honest, _ = await announce(nodes[1])
            hang = asyncio.Event()
            _hang(nodes[2].directory, hang)
            started = asyncio.get_running_loop().time()
            assert await nodes[0].directory.fetch(KEYS) == [honest]
            assert asyncio.get_running_loop().time() - started < 5.0
            hang.set()

    run(scenario())


def _hang(directory: Directory, until_set: asyncio.Event) -> None:
    """Make a node answer no question any more."""
    storage = directory._dht.p2p._client.control.unary_handlers
    for name in list(storage):

        async def wait(request: bytes, remote: object) -> bytes:
            await until_set.wait()
            return b""

        storage[name] = wait
