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
from swarm.wire.dht_search import WIDTH, search
from swarm.wire.record_gate import MAX_BODY_BYTES, Inspect, RecordClaims, RecordGate, Verified

__all__ = ["Directory", "Inspect", "RecordClaims"]

logger = logging.getLogger(__name__)

_RPC_TIMEOUT_S = 1.5
_REPLICAS = 5
_JOIN_TIMEOUT_S = 8.0
_RETRY_S = 0.2
_OPERATION_TIMEOUT_S = 10.0


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
        from hivemind.dht.node import DHTNode
        from hivemind.dht.routing import DHTID

        from swarm.wire.dht_validator import DhtValidator

        gate = RecordGate(inspect)
        dht = await DHTNode.create(
            p2p=p2p,
            node_id=DHTID.generate(identity.peer_id),
            client_mode=not serve,
            record_validator=DhtValidator(gate),
            wait_timeout=_RPC_TIMEOUT_S,
            num_replicas=_REPLICAS,
            cache_locally=False,  # a cache would show peers that have left
            cache_nearest=0,
            cache_on_store=False,
            reuse_get_requests=False,
        )
        directory = cls(dht, identity, gate, bootstrap)
        if bootstrap:
            await directory._join()
        return directory

    def now(self) -> float:
        """DHT time: seconds since the epoch, by this machine's clock."""
        from hivemind.utils.timed_storage import get_dht_time

        return float(get_dht_time())

    async def publish(self, keys: Sequence[str], value: bytes, expires_at: float) -> bool:
        """Sign `value` and store it under all keys until `expires_at`; whether every key took it.

        False also means: a record of this peer that expires later stands there already.
        """
        assert len(value) <= MAX_BODY_BYTES, (
            f"a record of {len(value)} bytes is over the limit of {MAX_BODY_BYTES}"
        )
        sealed = seal(value, self._identity)
        try:
            async with asyncio.timeout(_OPERATION_TIMEOUT_S):
                stored = await self._dht.store_many(
                    list(keys), [sealed] * len(keys), expires_at, subkeys=[self._identity.peer_id] * len(keys)
                )
        except TimeoutError:
            return False
        return all(stored.values())

    async def fetch(self, keys: Sequence[str]) -> list[bytes]:
        """The bodies of all valid records under these keys, one per peer: the one that expires last.

        Nodes that do not answer are left out; what the others hold is returned.
        """
        from hivemind.dht.routing import DHTID

        storage, table = self._dht.protocol.storage, self._dht.protocol.routing_table
        ids = [DHTID.generate(key) for key in dict.fromkeys(keys)]
        start: dict[Any, Any] = {}
        for key in ids:
            start.update(table.get_nearest_neighbors(key, WIDTH, exclude=self._dht.node_id))
        values = [entry.value for key in ids if (entry := storage.get(key)) is not None]
        values += [entry.value for entry in await search(self._ask, start, ids)]
        return self._newest(values)

    async def _ask(self, peer: Any, keys: Collection[Any]) -> Any:
        """One question of a search; nodes that lately did not answer are not asked."""
        if peer == self._dht.peer_id or peer in self._dht.blacklist:
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
        from hivemind.p2p import PeerID
        from hivemind.p2p.p2p_daemon_bindings.utils import ControlFailure
        from hivemind.utils.multiaddr import Multiaddr

        peer_id = PeerID.from_base58(peer_id_in(address))
        try:
            async with asyncio.timeout(_RPC_TIMEOUT_S):
                await self._dht.p2p._client.connect(peer_id, [Multiaddr(without_peer_id(address))])
        except (ControlFailure, TimeoutError, OSError):
            return False
        return await self._dht.protocol.call_ping(peer_id) is not None
