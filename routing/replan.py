"""When a running session looks for better peers, and when it goes to them."""

from __future__ import annotations

from dataclasses import dataclass

PERIOD_S = 5.0
ALARM_S = 1.0  # even a straggler is not left sooner than this after the last look
LOOK_AHEAD = 128  # steps that a session is believed to go on, at most
BETTER = 0.6  # of what the layers cost now
LEAST_GAIN_S = 0.002
MARGIN = 2.0  # the gain over what the change costs


@dataclass(frozen=True, slots=True)
class Switch:
    """Other peers for some layers of a session.

    Attributes:
        now_s, best_s: what one step through these layers costs now, and would there.
        steps_left: how many steps may follow.
        replay_s: what it takes to make the caches there.
    """

    now_s: float
    best_s: float
    steps_left: int
    replay_s: float

    @property
    def is_worthwhile(self) -> bool:
        """Whether the gain is clear, and clearly more than the cost."""
        gain_s = self.now_s - self.best_s
        if self.best_s > BETTER * self.now_s or gain_s < LEAST_GAIN_S:
            return False
        return gain_s * min(self.steps_left, LOOK_AHEAD) > MARGIN * self.replay_s


class Occasions:
    """Tells when it is time to look again; times are of any clock that does not go back."""

    def __init__(self, now: float) -> None:
        self._last_s = now

    def is_due(self, alarmed: bool, now: float) -> bool:
        """Whether to look now; `alarmed` if a straggler was seen."""
        return now - self._last_s >= (ALARM_S if alarmed else PERIOD_S)

    def looked(self, now: float) -> None:
        """Somebody looks, or the chain has just changed."""
        self._last_s = now
