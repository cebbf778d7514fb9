"""How much a node's uplink and downlink carry, from its real transfers.

Right behind a bulk payload goes a ping, so that its pong tells when all of the payload had arrived. Many things make a
transfer slow, but none makes it faster than the links are: of recent samples the best one counts, as in the filter of
BBR (Cardwell et al., 2016). The sender tells the receiver, which cannot see what waited in buffers on the way.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

LEAST_BYTES = 64 << 10
KEPT_S = 600.0
LEAST_SAMPLES = 4  # fewer may tell of a busy machine, not of the links
MAX_BYTES_PER_S = 1e12
FIRST_NONCE = 1 << 52  # heartbeats never count so far
_MOST_UNDER_WAY = 8
_LOST_S = 60.0
_LEAST_SHARE = (
    1 / 8
)  # of the time to the pong; where the round trip is nearly all of it, little is known of the rest


class RecentBest:
    """The greatest of the samples of the last `KEPT_S`, or the last one of all; 0 until there were `least`."""

    def __init__(self, clock: Callable[[], float], least: int = 1) -> None:
        self._clock = clock
        self._missing = least
        self._samples: deque[tuple[float, float]] = deque()  # falling: what was beaten is forgotten

    def add(self, sample: float) -> None:
        """A new sample."""
        self._missing -= 1
        while self._samples and self._samples[-1][1] <= sample:
            self._samples.pop()
        self._samples.append((self._clock(), sample))

    @property
    def value(self) -> float:
        """See the class."""
        oldest_s = self._clock() - KEPT_S
        while len(self._samples) > 1 and self._samples[0][0] < oldest_s:
            self._samples.popleft()
        return 0.0 if self._missing > 0 else self._samples[0][1]


class Bandwidth:
    """What all links of a node together know, in bytes per second; 0 while nothing is known.

    Attributes:
        upload: the best that bulk payloads from here got.
        download: the best that others got with bulk payloads to here, as they say.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.upload = RecentBest(clock, LEAST_SAMPLES)
        self.download = RecentBest(clock)


class BulkTimer:
    """Times the bulk payloads that are sent over one link. Times in seconds of any steady clock."""

    def __init__(self, upload: RecentBest) -> None:
        self._upload = upload
        self._under_way: dict[int, tuple[int, float]] = {}
        self._next = FIRST_NONCE
        self._untold = 0.0

    def sent(self, size: int, began_s: float) -> int | None:
        """So many bytes were sent; the nonce of the ping that is to follow them, if they are to be timed."""
        if size < LEAST_BYTES:
            return None
        if (
            len(self._under_way) >= _MOST_UNDER_WAY
        ):  # pings may be dropped: what nobody answers must not stay for ever
            recent = {n: bulk for n, bulk in self._under_way.items() if began_s - bulk[1] < _LOST_S}
            self._under_way = recent
            if len(recent) >= _MOST_UNDER_WAY:
                return None
        self._next += 1
        self._under_way[self._next] = (size, began_s)
        return self._next

    def pong(self, nonce: int, now_s: float, rtt_s: float | None) -> None:
        """The answer to a ping of ours, or to one of those that a stranger makes up."""
        size, began_s = self._under_way.get(nonce, (0, 0.0))
        if not size:
            return
        # pongs come in order: the pings before this one were dropped
        self._under_way = {later: bulk for later, bulk in self._under_way.items() if later > nonce}
        took_s = now_s - began_s
        moving_s = max(took_s - (rtt_s or 0.0), took_s * _LEAST_SHARE)
        if moving_s > 0:
            rate = min(size / moving_s, MAX_BYTES_PER_S)
            self._upload.add(rate)
            self._untold = max(self._untold, rate)

    def take_news(self) -> float:
        """The best since the last call, for the other end to know; 0 if there was none, or is too little to go by."""
        if not self._upload.value:
            return 0.0
        news, self._untold = self._untold, 0.0
        return news
