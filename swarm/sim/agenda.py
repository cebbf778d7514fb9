"""What happens next, in virtual time: a heap of events, in the order of their times and then of their making."""

from __future__ import annotations

import heapq
from collections.abc import Callable

Event = Callable[[], None]


class Agenda:
    """Events to come, and the time of the one that is happening."""

    def __init__(self) -> None:
        self.now = 0.0
        self._events: list[tuple[float, int, Event]] = []
        self._made = 0

    def at(self, when: float, event: Event) -> None:
        """Let this happen at a time; in the past means now."""
        self._made += 1
        heapq.heappush(self._events, (max(when, self.now), self._made, event))

    def after(self, seconds: float, event: Event) -> None:
        """Let this happen so much later."""
        self.at(self.now + seconds, event)

    def every(self, seconds: float, event: Event) -> None:
        """Let this happen again and again, for the first time after one interval."""

        def again() -> None:
            event()
            self.after(seconds, again)

        self.after(seconds, again)

    def run(self, until: float, before: Callable[[float], None]) -> None:
        """Play everything up to a time; `before` hears of every time to which the clock is about to move."""
        while self._events and self._events[0][0] <= until:
            when, _, event = heapq.heappop(self._events)
            before(when)
            self.now = when
            event()
        before(until)
        self.now = until
