"""What has gone wrong in one step so far, and when to stop trying."""

from __future__ import annotations

from swarm.core.errors import PeerError, SessionLost, SwarmUnavailable

PATIENT_TRIES = 3
PAUSE_S = 0.25
MOST_TRIES = 8


class Trouble:
    """Counts the failures of one step.

    Args:
        timeout_s: how long repairs are tried; a step that fails on and on is given up after that.
    """

    def __init__(self, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._tries = 0
        self._lost: set[str | None] = set()
        self.since_s: float | None = None

    def begin(self, now_s: float) -> float:
        """When the trouble began: now, unless it has begun already."""
        if self.since_s is None:
            self.since_s = now_s
        return self.since_s

    def note(self, error: PeerError, now_s: float) -> None:
        """Take in one more failure.

        Raises:
            SwarmUnavailable: if there were too many, for too long.
        """
        took_s = now_s - self.begin(now_s)
        self._tries += 1
        if self._tries > MOST_TRIES and took_s > self._timeout_s:
            raise SwarmUnavailable(
                f"the step failed {self._tries} times in {took_s:.0f} s, at last: {error}"
            ) from error

    def is_peers_fault(self, error: PeerError) -> bool:
        """Whether to avoid the peer: not for a session that it lost once, as it does when it was restarted."""
        if isinstance(error, SessionLost) and error.peer_id not in self._lost:
            self._lost.add(error.peer_id)
            return False
        return True

    @property
    def pause_s(self) -> float:
        """How long to wait before the next try: not at all, unless trying did not help."""
        return PAUSE_S if self._tries > PATIENT_TRIES else 0.0
