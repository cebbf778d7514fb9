"""How often somebody may ask: a bucket that fills at a steady rate (token bucket)."""

from __future__ import annotations


class RateBucket:
    """Allows `per_minute` requests a minute, and as many at once after a pause. Pure: `now_s` is given."""

    def __init__(self, per_minute: int) -> None:
        self._most = float(per_minute)
        self._per_s = per_minute / 60
        self._level = self._most
        self._seen_s: float | None = None

    def take(self, now_s: float) -> float:
        """Seconds until one more request is allowed; 0: it is allowed now, and counted."""
        if self._seen_s is not None:
            self._level = min(self._most, self._level + (now_s - self._seen_s) * self._per_s)
        self._seen_s = now_s
        if self._level >= 1:
            self._level -= 1
            return 0.0
        return (1 - self._level) / self._per_s
