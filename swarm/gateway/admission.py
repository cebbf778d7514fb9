"""Who may generate now, who waits, and who is sent away.

A bounded number of sessions runs at once, a bounded number of requests waits in the order of arrival, and everybody
else is told when to ask again.
"""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import suppress
from dataclasses import dataclass

from swarm.gateway.api_error import ApiError

_FIRST_GUESS_S = 5.0
_LONGEST_RETRY_S = 60.0
_WEIGHT = 0.2  # of the newest answer in the average


@dataclass(eq=False, slots=True)
class _Waiter:
    slots: int
    turn: asyncio.Future[None]


class Admission:
    """For one event loop.

    Args:
        slots: sessions at once.
        queue: requests that may wait.
    """

    def __init__(self, slots: int, queue: int) -> None:
        self.slots = slots
        self._free = slots
        self._held = 0
        self._queue = queue
        self._waiting: deque[_Waiter] = deque()
        self._usual_s = _FIRST_GUESS_S
        self._closed = False

    @property
    def running(self) -> int:
        """Slots in use."""
        return self._held

    @property
    def waiting(self) -> int:
        """Requests in the queue."""
        return sum(not waiter.turn.cancelled() for waiter in self._waiting)

    @property
    def closed(self) -> bool:
        """Whether new requests are refused because the gateway leaves."""
        return self._closed

    async def acquire(self, slots: int) -> None:
        """Wait for so many slots, which `release` gives back.

        Raises:
            ApiError: 400 if there are never so many; 429 if the queue is full; 503 once closed.
        """
        if slots > self.slots:
            raise ApiError(400, f"{slots} answers at once are more than the {self.slots} this gateway makes")
        if self._closed:
            raise ApiError(503, "the gateway is shutting down", code="shutting_down", retry_after_s=5)
        if self._free >= slots and not self.waiting:
            self._take(slots)
            return
        if self.waiting >= self._queue:
            raise ApiError(
                429,
                f"{self._held} answers are being made and {self.waiting} requests wait: ask again later",
                code="queue_full",
                retry_after_s=self.retry_after_s,
            )
        waiter = _Waiter(slots, asyncio.get_running_loop().create_future())
        self._waiting.append(waiter)
        try:
            await waiter.turn
        except asyncio.CancelledError:
            if waiter.turn.cancelled():
                with suppress(ValueError):  # its turn came just now
                    self._waiting.remove(waiter)
                self._wake()  # who comes after may fit
            else:
                self.release(slots)  # it was given its turn just now
            raise

    def release(self, slots: int) -> None:
        """Give slots back."""
        self._free += slots
        self._held -= slots
        self.check()
        self._wake()

    def took(self, seconds: float) -> None:
        """An answer took so long; what is said to those who are sent away follows it."""
        self._usual_s += _WEIGHT * (seconds - self._usual_s)

    @property
    def retry_after_s(self) -> float:
        """When a slot is probably free for somebody who comes now."""
        turns = (self.waiting + 1) / self.slots
        return min(max(1.0, turns * self._usual_s), _LONGEST_RETRY_S)

    def close(self) -> None:
        """Let nobody in any more; those who wait keep their turn."""
        self._closed = True

    def check(self) -> None:
        """free + held == slots."""
        assert self._free + self._held == self.slots, "the books of the slots are wrong"

    def _take(self, slots: int) -> None:
        self._free -= slots
        self._held += slots
        self.check()

    def _wake(self) -> None:
        while self._waiting:
            waiter = self._waiting[0]
            if not waiter.turn.cancelled():
                if waiter.slots > self._free:
                    return
                self._take(waiter.slots)
                waiter.turn.set_result(None)
            self._waiting.popleft()
