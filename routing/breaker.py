"""Peers that failed are left alone for a while, whatever they announce.

closed     failure               -> open
open       its time is over      -> half-open
half-open  one try is admitted   -> closed if it succeeds, else open for twice as long
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class _Circuit:
    open_until: float
    backoff_s: float
    trial_until: float = 0.0


class CircuitBreaker:
    """One circuit per peer, closed until it fails; times are seconds of any clock that does not go back."""

    def __init__(self, first_s: float = 1.0, longest_s: float = 60.0, trial_s: float = 10.0) -> None:
        """Stay open for `first_s`, doubling up to `longest_s`; a try has `trial_s` to report how it went."""
        assert 0 < first_s <= longest_s
        self._first_s = first_s
        self._longest_s = longest_s
        self._trial_s = trial_s
        self._circuits: dict[str, _Circuit] = {}

    def record_failure(self, peer_id: str, now: float) -> None:
        """Open the circuit. Failures while it is open are the same failure seen by others and change nothing."""
        self._forget_old(now)
        known = self._circuits.get(peer_id)
        if known is None:
            self._circuits[peer_id] = _Circuit(now + self._first_s, self._first_s)
        elif now >= known.open_until:
            backoff_s = min(known.backoff_s * 2, self._longest_s)
            self._circuits[peer_id] = _Circuit(now + backoff_s, backoff_s)

    def record_success(self, peer_id: str) -> None:
        """Close the circuit and forget its failures."""
        self._circuits.pop(peer_id, None)

    def admit(self, peer_id: str, now: float) -> bool:
        """Whether this caller may try the peer; in half-open state only the first caller may, until it reports."""
        if self.is_open(peer_id, now):
            return False
        known = self._circuits.get(peer_id)
        if known is not None:
            known.trial_until = now + self._trial_s
        return True

    def is_open(self, peer_id: str, now: float) -> bool:
        """Whether to stay away from this peer at `now`."""
        known = self._circuits.get(peer_id)
        return known is not None and now < max(known.open_until, known.trial_until)

    def open_peers(self, now: float) -> frozenset[str]:
        """All peers to stay away from at `now`."""
        return frozenset(peer_id for peer_id in self._circuits if self.is_open(peer_id, now))

    def _forget_old(self, now: float) -> None:
        """A peer that was let alone for the longest back-off after its circuit could close starts afresh."""
        self._circuits = {p: c for p, c in self._circuits.items() if now < c.open_until + self._longest_s}
