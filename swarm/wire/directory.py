"""The directory of the swarm: signed records on a Kademlia DHT (Maymounkov & Mazieres, 2002; hivemind's version).

Every node that listens stores records of others; one that does not listen only asks. Whatever is stored or read passes
`RecordGate`, so a record in here is its peer's own. A record is never deleted: its peer replaces it by one that expires
later.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Iterable, Sequence
from typing import Any

from swarm.core.errors import NodeError
from swarm.security.identity import Identity
from swarm.security.signed import seal
from swarm.wire.address import peer_id_in, without_peer_id
from swarm.wire.daemon import daemon_errors
from swarm.wire.dht_search import WIDTH, Found, nearest, search
from swarm.wire.dht_validator import DhtValidator
from swarm.wire.hivemind_parts import DHTID, DHTNode, Multiaddr, PeerID, get_dht_time
from swarm.wire.record_gate import MAX_BODY_BYTES, Inspect, RecordClaims, RecordGate, Verified

__all__ = ["Directory", "Inspect", "RecordClaims"]

logger = logging.getLogger(__name__)

_RPC_TIMEOUT_S = 2.0
_AVOID_S = 2.0  # how long a node that did not answer is left out, at first
_REPLICAS = 5
_JOIN_TIMEOUT_S = 6.0
_RETRY_S = 0.2


class Directory:
    """This node's part in the DHT. Made by `swarm.wire.node`."""

    def __init__(self, dht: Any, identity: Identity, gate: RecordGate, bootstrap: Sequence[str]) -> None:
        self._dht = dht
        self._identity = identity
        self._gate = gate
        self._bootstrap = tuple(bootstrap)

    @classmethod
    async def join(
        cls, p2p: Any, identity: Identity, inspect: Inspect, *, bootstrap: Sequence[str], serve: bool
    ) -> Directory:
        """Enter the DHT through the bootstrap addresses; with none of them, begin a new DHT.

        Raises:
            NodeError: if none of them answers.
        """
        gate = RecordGate(inspect)
        dht = await DHTNode.create(
            p2p=p2p,
            node_id=DHTID.generate(identity.peer_id),
            client_mode=not serve,
            record_validator=DhtValidator(gate),
            wait_timeout=_RPC_TIMEOUT_S,
            num_replicas=_REPLICAS,
            blacklist_time=_AVOID_S,
        )
        directory = cls(dht, identity, gate, bootstrap)
        if bootstrap:
            await directory._join()
        return directory

    def now(self) -> float:
        """DHT time: seconds since the epoch, by this machine's clock."""
        return float(get_dht_time())

    async def publish(self, keys: Sequence[str], value: bytes, expires_at: float) -> bool:
        """Sign `value` and store it under all keys until `expires_at`; whether each key has it now somewhere.

        False means that nobody took it: no node answers, or a record of this peer that expires later stands there.
        """
        assert len(value) <= MAX_BODY_BYTES, (
            f"a record of {len(value)} bytes is over the limit of {MAX_BODY_BYTES}"
        )
        packed = self._dht.protocol.serializer.dumps(seal(value, self._identity))
        ids = self._ids(keys)
        places = await self._places(ids)
        stored: set[Any] = set()
        async with asyncio.TaskGroup() as stores:
            for peer, its_ids in places.items():
                stores.create_task(self._store(peer, its_ids, packed, expires_at, stored))
        return stored.issuperset(ids)

    async def _places(self, ids: Sequence[Any]) -> dict[Any, list[Any]]:
        """Which nodes, this one perhaps among them, are to keep a record under which keys."""
        nodes = (await self._search(ids)).nodes
        if not self._dht.protocol.client_mode:
            nodes = {**nodes, self._dht.node_id: self._dht.peer_id}
        places: dict[Any, list[Any]] = {}
        for key in ids:
            for node in nearest(nodes, key, _REPLICAS):
                places.setdefault(nodes[node], []).append(key)
        return places

    async def _store(
        self, peer: Any, ids: list[Any], packed: bytes, expires_at: float, stored: set[Any]
    ) -> None:
        """Store a record of ours at one node; the keys under which it was taken are added to `stored`."""
        protocol, name = self._dht.protocol, self._identity.peer_id
        if peer == self._dht.peer_id:
            taken = [protocol.storage.store_subkey(key, name, packed, expires_at) for key in ids]
        else:
            count = len(ids)
            taken = await protocol.call_store(
                peer, ids, [packed] * count, [expires_at] * count, [name] * count
            )
        stored.update(key for key, ok in zip(ids, taken or (), strict=False) if ok)

    async def fetch(self, keys: Sequence[str]) -> list[bytes]:
        """The bodies of all valid records under these keys, one per peer: the one that expires last.

        Nodes that do not answer are left out; what the others hold is returned.
        """
        ids, storage = self._ids(keys), self._dht.protocol.storage
        found = await self._search(ids)
        values = [entry.value for key in ids if (entry := storage.get(key)) is not None]
        return self._newest(values + [entry.value for entry in found.values])

    @staticmethod
    def _ids(keys: Sequence[str]) -> list[Any]:
        return [DHTID.generate(key) for key in dict.fromkeys(keys)]

    async def _search(self, ids: Sequence[Any]) -> Found[Any]:
        await self._ensure_joined()
        start: dict[Any, Any] = {}
        for key in ids:
            near = self._dht.protocol.routing_table.get_nearest_neighbors(
                key, WIDTH, exclude=self._dht.node_id
            )
            start.update(near)
        responsive = {node: peer for node, peer in start.items() if peer not in self._dht.blacklist}
        if responsive:
            return await search(self._ask_responsive, responsive, ids)
        return await search(self._ask, start, ids)

    async def _ask_responsive(self, peer: Any, keys: Collection[Any]) -> Any:
        """One question of a search, but none to a node that lately did not answer."""
        return None if peer in self._dht.blacklist else await self._ask(peer, keys)

    async def _ask(self, peer: Any, keys: Collection[Any]) -> Any:
        """One question of a search."""
        if peer == self._dht.peer_id:
            return None
        answers = await self._dht.protocol.call_find(peer, keys)
        if answers is None:
            self._dht.blacklist.register_failure(peer)
        else:
            self._dht.blacklist.register_success(peer)
        return answers

    def _newest(self, dictionaries: Iterable[Any]) -> list[bytes]:
        """One live record per peer out of hivemind's dictionaries subkey -> (packed record, expiration)."""
        newest: dict[str, Verified] = {}
        now = self.now()
        for dictionary in dictionaries:
            for entry in list(getattr(dictionary, "data", {}).values()):
                record = self._gate.opened(entry.value)
                if record is None or record.claims.expires_at <= now:
                    continue
                known = newest.get(record.claims.peer_id)
                if known is None or known.claims.expires_at < record.claims.expires_at:
                    newest[record.claims.peer_id] = record
        return [record.body for record in newest.values()]

    async def keep_joined(self, every_s: float) -> None:
        """Greet the bootstrap nodes now and then, for as long as this is awaited.

        One that was restarted, or that was cut off from us for a while, has forgotten us and everybody else.
        """
        while self._bootstrap:
            await asyncio.sleep(every_s)
            await asyncio.gather(*map(self._ping, self._bootstrap))

    def close(self) -> None:
        """End what hivemind does in the background; p2pd is about to end, and needs not be told."""
        self._dht.is_alive = False

    async def _ensure_joined(self) -> None:
        """Greet the bootstrap nodes if we know nobody: one answer that came late is enough for that."""
        if self._bootstrap and not self._dht.protocol.routing_table.uid_to_peer_id:
            await asyncio.gather(*map(self._ping, self._bootstrap))
            await asyncio.sleep(0)  # hivemind enters them into its table in a task of its own

    async def _join(self) -> None:
        try:
            async with asyncio.timeout(_JOIN_TIMEOUT_S):
                await self._greet_anyone()
        except TimeoutError as exc:
            raise NodeError(
                f"none of the peers given by --peers answers as a node of a swarm: {', '.join(self._bootstrap)}"
            ) from exc
        await self._dht.find_nearest_nodes([self._dht.node_id])

    async def _greet_anyone(self) -> None:
        """Ping the bootstrap nodes until one answers: one that has just started may need a moment."""
        while True:
            if any(await asyncio.gather(*map(self._ping, self._bootstrap))):
                return
            await asyncio.sleep(_RETRY_S)

    async def _ping(self, address: str) -> bool:
        """Make one bootstrap node and this one know each other; whether it answered."""
        peer_id = PeerID.from_base58(peer_id_in(address))
        try:
            async with asyncio.timeout(_RPC_TIMEOUT_S):
                await self._dht.p2p._client.connect(peer_id, [Multiaddr(without_peer_id(address))])
        except daemon_errors():
            return False
        return await self._dht.protocol.call_ping(peer_id) is not None
