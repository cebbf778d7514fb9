"""Sessions that this node has opened on peers since they announced how many they have."""

from __future__ import annotations

from collections.abc import Mapping

from swarm.routing.chain import Chain
from swarm.routing.records import PeerRecord


class OpenedSessions:
    """Counts them; each newer record of a peer counts itself what is open there, and starts afresh."""

    def __init__(self) -> None:
        self._since: dict[str, tuple[float, int]] = {}  # when the record was issued, sessions opened after

    def add(self, chain: Chain, records: Mapping[str, PeerRecord]) -> None:
        """A session goes through this chain, which was planned with these records."""
        counts = self.counts(records)
        self._since = {peer: (records[peer].issued_at, count) for peer, count in counts.items()}
        for peer_id in {hop.peer_id for hop in chain.hops} & records.keys():
            self._since[peer_id] = (records[peer_id].issued_at, counts.get(peer_id, 0) + 1)

    def counts(self, records: Mapping[str, PeerRecord]) -> dict[str, int]:
        """How many sessions each of these records does not count; peers without any are left out."""
        return {
            peer: count
            for peer, (issued_at, count) in self._since.items()
            if peer in records and records[peer].issued_at <= issued_at
        }
