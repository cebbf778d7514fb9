"""When the device runs what: how long it waits for sessions that will be back soon, and which work it takes.

All of that follows from what ran so far: who came back after what time, and what it took. Times are in seconds, by one
clock of the caller's that never goes back.
"""

from __future__ import annotations

from collections.abc import Sequence

from swarm.peer.absences import Absences
from swarm.peer.prefill_share import PrefillShare
from swarm.peer.scheduler import (
    GroupSize,
    Portion,
    Waiting,
    choose_batch,
    choose_one,
    group_size,
    long_heads,
    wait_s,
)

QUICK_S = 0.025  # the way to the device's thread and back takes 0.5 to 1 ms; longer work would keep messages waiting


class Pace:
    """`batch_tokens` is how many tokens of prompts run at once; `together` whether sessions run in one batch.

    Attributes:
        share: what steps took, told by whoever runs them; a new one after `forget_rates`.
        absences: who came and left, told likewise.
    """

    def __init__(self, batch_tokens: int, *, together: bool) -> None:
        self._batch_tokens = batch_tokens
        self._together = together
        self.share = PrefillShare(batch_tokens)
        self.absences = Absences()

    def forget(self, session: bytes) -> None:
        """This session has ended."""
        self.absences.forget(session)
        self.share.forget(session)

    def forget_rates(self) -> None:
        """What ran so far was a test, the first steps of a cold device: it says nothing of what steps will take."""
        self.share = PrefillShare(self._batch_tokens)

    def queue_s(self, waiting: int) -> float:
        """What new work would wait, roughly, behind so much other: batches ahead of it times the usual time of one."""
        ahead = min(waiting, 1) if self._together else waiting
        return ahead * (self.share.decode_s or 0.0)

    @property
    def is_quick(self) -> bool:
        """Whether a decode step may hold up the event loop."""
        decode_s = self.share.decode_s
        return decode_s is not None and decode_s < QUICK_S

    def pause_s(self, waiting: Sequence[Waiting], now_s: float, idle_since_s: float) -> float:
        """How long to wait for more before this runs."""
        decode_s = self.share.decode_s
        if not self._together or not decode_s or not all(work.is_short for work in waiting):
            return 0.0
        waited_s = now_s - max(min(work.arrived_s for work in waiting), idle_since_s)
        here = len({work.session for work in waiting})
        expected = self.absences.expected(now_s)
        groups = self._groups(here, len(expected))
        pause_s = wait_s(here, expected[: max(groups.most - here, 0)], decode_s, groups.least)
        if here < groups.least:
            return max(min(pause_s, decode_s / 2 - waited_s), 0.0)
        return pause_s if waited_s + pause_s <= decode_s else 0.0

    def choose(self, waiting: Sequence[Waiting], now_s: float) -> list[Portion]:
        """What of this runs next."""
        prompts = long_heads(waiting)
        here = len({work.session for work in waiting if work.is_short})
        budget = (
            self.share.budget(prompts[0].session, now_s, [p.tokens for p in prompts], here) if prompts else 0
        )
        if not self._together:
            return choose_one(waiting, now_s, budget)
        if len(waiting) == 1:
            return choose_batch(waiting, now_s, budget)
        groups = self._groups(here, len(self.absences.expected(now_s)))
        return choose_batch(waiting, now_s, budget, groups.most)

    def _groups(self, here: int, away: int) -> GroupSize:
        return group_size(here + away, self.absences.usual_s(), self.share.decode_s or 0.0)
