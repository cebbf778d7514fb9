"""Callers of a simulated swarm: sessions that share what it serves, each as fast as the others.

All sessions have received the same number of tokens since any moment, so one counter, `_given`, tells when each ends.
"""

from __future__ import annotations

import heapq

from swarm.sim.scenario import Requests


class Callers:
    """Sessions and what became of them; `tokens` is what was served, in all."""

    def __init__(self, requests: Requests) -> None:
        self._requests = requests
        self.tokens = 0.0
        self.admitted = self.refused = self.finished = 0
        self._ends: list[float] = []
        self._given = 0.0

    @property
    def sessions(self) -> int:
        """How many are under way."""
        return len(self._ends)

    def call(self, tokens: float, capacity: float) -> bool:
        """A request for so many tokens; refused if all sessions would become too slow."""
        if (self.sessions + 1) * self._requests.least_tokens_per_s > capacity:
            self.refused += 1
            return False
        heapq.heappush(self._ends, self._given + tokens)
        self.admitted += 1
        return True

    def served(self, capacity: float) -> float:
        """Tokens per second that they get at this moment."""
        return min(capacity, self.sessions * self._requests.most_tokens_per_s)

    def advance(self, seconds: float, capacity: float) -> None:
        """Let time pass in which the capacity does not change."""
        while seconds > 0 and self._ends:
            rate = self.served(capacity)
            if rate <= 0:
                return
            each = rate / self.sessions
            spent = min(seconds, (self._ends[0] - self._given) / each)
            self._given += spent * each
            self.tokens += spent * rate
            seconds -= spent
            if self._ends[0] <= self._given * (1 + 1e-12):
                heapq.heappop(self._ends)
                self.finished += 1
