"""The heartbeat of a link: which ping is under way, and how long round trips take.

A ping that had to stand behind a bulk payload tells nothing about the network, so it is not timed.
"""

from __future__ import annotations

from swarm.wire.bandwidth import FIRST_NONCE

_FIRST_SAMPLES = 4
_UP, _DOWN = 0.125, 0.5  # a pong may be late for many reasons, but is never early


class Heartbeat:
    """Pings sent and pongs received. Times in seconds of any steady clock.

    Attributes:
        rtt_s: smoothed round-trip time; None until the first timed pong.
    """

    def __init__(self) -> None:
        self.rtt_s: float | None = None
        self._nonce = 0
        self._sent_s: float | None = None
        self._samples = 0

    @property
    def warming_up(self) -> bool:
        """Whether another ping should follow at once: the first pings of a link are the slow ones."""
        return 0 < self._samples < _FIRST_SAMPLES

    def next_ping(self, now_s: float, *, timed: bool) -> int:
        """The nonce of a new ping, which replaces an unanswered one."""
        self._nonce = (self._nonce + 1) % FIRST_NONCE
        self._sent_s = now_s if timed else None
        return self._nonce

    def pong(self, nonce: int, now_s: float, *, timed: bool) -> bool:
        """Take a pong; whether it gave a new sample."""
        if nonce != self._nonce or self._sent_s is None:
            return False
        sample_s, self._sent_s = now_s - self._sent_s, None
        if timed:
            self._samples += 1
            self.rtt_s = self._smoothed(sample_s)
        return timed

    def _smoothed(self, sample_s: float) -> float:
        if self.rtt_s is None:
            return sample_s
        if self._samples <= _FIRST_SAMPLES:
            return min(self.rtt_s, sample_s)
        return self.rtt_s + (_UP if sample_s > self.rtt_s else _DOWN) * (sample_s - self.rtt_s)
