"""Peers that are busy and said when to ask again: until then this node leaves them alone.

Being busy is no failure: nothing adds up, and whoever is asked again after its time is a peer like any other.
"""

from __future__ import annotations

from swarm.core.errors import LONGEST_RETRY_S

LEAST_S = 0.25  # even who says "at once" is not asked in a tight loop


class Rests:
    """Until when to leave which peer alone; times are seconds of any clock that does not go back."""

    def __init__(self) -> None:
        self._until_s: dict[str, float] = {}

    def begin(self, peer_id: str, wait_s: float, now: float) -> float:
        """This peer asks to be left alone for `wait_s`; returns for how long it is. An earlier wish may last longer."""
        until_s = max(now + min(max(wait_s, LEAST_S), LONGEST_RETRY_S), self._until_s.get(peer_id, now))
        self._until_s = {peer: s for peer, s in self._until_s.items() if s > now} | {peer_id: until_s}
        return until_s - now

    def resting(self, now: float) -> frozenset[str]:
        """All peers to leave alone at `now`."""
        return frozenset(peer for peer, until_s in self._until_s.items() if now < until_s)
