"""What one simulation found."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from swarm.sim.world import World

RECOVERY_S = 180.0


@dataclass(slots=True)
class Tally:
    """Sums over the steady part of a story, in seconds and tokens."""

    seconds: float = 0.0
    covered_s: float = 0.0
    peer_s: float = 0.0
    served: float = 0.0
    best: float = 0.0
    moves_before: int = 0

    def add(self, seconds: float, served: float, best: float, world: World) -> None:
        """So much time has passed in this state of the world."""
        self.seconds += seconds
        self.covered_s += seconds * world.covered
        self.peer_s += seconds * len(world.peers)
        self.served += served
        self.best += best


@dataclass(frozen=True, slots=True)
class Sample:
    """One moment: tokens per second served, what the placement could serve, and what any placement could."""

    at_s: float
    served: float
    capacity: float
    best: float
    peers: int


@dataclass(frozen=True, slots=True)
class Outcome:
    """One run of one policy. Shares are of the time or of the tokens in the steady part of the story.

    Attributes:
        covered: part of the time in which every layer was served.
        served_tokens_per_s, best_tokens_per_s: means; the best is what no placement of the same peers exceeds, or what
            the callers wanted if that is less.
        recovery: after the loss of a region, the part of the later throughput that is served within three minutes.
        moves: of serving peers, in the steady part; `peer_hours` is how long peers were there in it.
        refused: part of the requests that were told to come back later.
        routed: what many callers get on the chains that they find, of 90% of the best possible; None if not looked at.
        bound_error: by which part the bound differs from the solver's, where that was asked.
        token_s: times per token of some callers at 70% of the best possible load.
    """

    scenario: str
    policy: str
    peers: int
    seed: int
    covered: float
    served_tokens_per_s: float
    best_tokens_per_s: float
    recovery: float | None
    moves: int
    peer_hours: float
    refused: float
    routed: float | None
    bound_error: float
    token_s: tuple[float, ...]
    samples: tuple[Sample, ...]

    @property
    def ratio(self) -> float:
        """Served by best."""
        return self.served_tokens_per_s / self.best_tokens_per_s if self.best_tokens_per_s else 1.0

    @property
    def moves_per_hour(self) -> float:
        """Moves per peer and hour."""
        return self.moves / self.peer_hours if self.peer_hours else 0.0

    def token_ms(self, percent: float) -> float | None:
        """A percentile of the time per token; None if there was no chain at any sampled moment."""
        return float(np.percentile(self.token_s, percent)) * 1000 if self.token_s else None


def recovery(samples: list[Sample], lost_at_s: float) -> float | None:
    """Mean served tokens per second at three minutes after the loss, by the mean of what came later."""
    early = [s.served for s in samples if 0 <= s.at_s - lost_at_s - RECOVERY_S < 30.0]
    late = [s.served for s in samples if s.at_s >= lost_at_s + 2 * RECOVERY_S]
    if not early or not late or not np.mean(late):
        return None
    return float(np.mean(early) / np.mean(late))
