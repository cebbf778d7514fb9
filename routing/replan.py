"""When a running session looks for better peers, and when it goes to them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import inf

from swarm.routing.observed import is_much_slower

PERIOD_S = 5.0
GLANCE_S = 0.2  # how often the pace of the hops is looked at, which costs every step that does
ALARM_S = 1.0  # even a hop that has become slow is not left sooner than this after the last look
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
    """Tells when it is time to look again at a chain that is new now; times are of any clock that does not go back."""

    def __init__(self, now: float) -> None:
        self._last_s = now
        self._glanced_s = -inf  # what a new chain is like has to be known before it gets worse

    def may_glance(self, now: float) -> bool:
        """Whether it is time to look at the pace of the hops again; if so, that is done now."""
        if now - self._glanced_s < GLANCE_S:
            return False
        self._glanced_s = now
        return True

    def is_due(self, alarmed: bool, now: float) -> bool:
        """Whether to look now; `alarmed` if a hop has become slow."""
        return now - self._last_s >= (ALARM_S if alarmed else PERIOD_S)

    def looked(self, now: float) -> None:
        """Somebody looks."""
        self._last_s = now


class Decline:
    """Notices that a hop has become much slower than it was in this chain, whoever says so."""

    def __init__(self) -> None:
        self._best_s: dict[str, float] = {}

    def seen(self, steps_s: Mapping[str, float]) -> bool:
        """Take in what a step takes on each peer now (unknown: 0); whether one of them has become slow."""
        known = {peer_id: step_s for peer_id, step_s in steps_s.items() if step_s > 0}
        for peer_id, step_s in known.items():
            self._best_s[peer_id] = min(step_s, self._best_s.get(peer_id, step_s))
        return any(is_much_slower(step_s, self._best_s[peer_id]) for peer_id, step_s in known.items())
