"""What a peer has done since its start: counted by those who do it, read by whoever asks."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate

SECONDS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
SESSIONS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0)
TOKENS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0, 2048.0)


class Spread:
    """How often a value was in which range; `total` is the sum of all values."""

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def add(self, value: float) -> None:
        """One more value."""
        self._counts[bisect_left(self._bounds, value)] += 1
        self.total += value

    @property
    def cumulated(self) -> list[tuple[float, int]]:
        """For each bound, infinity last, how many values were not above it."""
        return list(zip((*self._bounds, float("inf")), accumulate(self._counts), strict=True))


@dataclass(slots=True)
class Tally:
    """Totals of one peer, whatever layers it served meanwhile. For its event loop.

    Attributes:
        queue_s, compute_s: of each step that ran: waiting for the device, and on it.
        batch_sessions, batch_tokens: sessions and token rows of each turn on the device.
        computed_tokens: token rows that went through the peer's layers; `probed_tokens` of them in its own tests.
        opened: sessions that were opened.
        failures: steps and requests that failed or were refused, by kind, as the protocol names them.
        replays, replayed_tokens: how often kept outputs were sent again, and their positions.
        handed_over, taken_over: sessions whose state went to another peer, or came from one.
        moves: how often the peer changed the layers that it serves; whoever moves it counts.
    """

    queue_s: Spread = field(default_factory=lambda: Spread(SECONDS))
    compute_s: Spread = field(default_factory=lambda: Spread(SECONDS))
    batch_sessions: Spread = field(default_factory=lambda: Spread(SESSIONS))
    batch_tokens: Spread = field(default_factory=lambda: Spread(TOKENS))
    computed_tokens: int = 0
    probed_tokens: int = 0
    opened: int = 0
    failures: Counter[str] = field(default_factory=Counter)
    replays: int = 0
    replayed_tokens: int = 0
    handed_over: int = 0
    taken_over: int = 0
    moves: int = 0

    def ran(self, queue_s: float, compute_s: float, computed_tokens: int) -> None:
        """A step has run."""
        self.queue_s.add(queue_s)
        self.compute_s.add(compute_s)
        self.computed_tokens += computed_tokens

    def turn(self, sessions: int, tokens: int) -> None:
        """The device has run a batch."""
        self.batch_sessions.add(sessions)
        self.batch_tokens.add(tokens)
