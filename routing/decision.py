"""What placement decides for one peer, with its reason and its numbers."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from swarm.core.span import Span


class Action(StrEnum):
    """What a peer does next."""

    JOIN = "join"
    MOVE = "move"
    STAY = "stay"


@dataclass(frozen=True, slots=True)
class Decision:
    """Where a peer should be, and why.

    Attributes:
        span: where it should be; for STAY, where it is.
        origin: where it is; None before it joined.
        reason: in a few words.
        weakest_layer, weakest_tokens_per_s: the place of the swarm that is served least, before the move.
        tokens_per_s, expected_tokens_per_s, best_tokens_per_s: what the swarm serves at most now, what it will serve
            with this decision, and what no placement of the same peers can exceed.
    """

    action: Action
    span: Span
    origin: Span | None
    reason: str
    weakest_layer: int
    weakest_tokens_per_s: float
    tokens_per_s: float
    expected_tokens_per_s: float
    best_tokens_per_s: float

    @property
    def gain(self) -> float:
        """By which part the swarm's throughput grows; infinite where nothing was served."""
        if self.tokens_per_s <= 0:
            return float("inf") if self.expected_tokens_per_s > 0 else 0.0
        return self.expected_tokens_per_s / self.tokens_per_s - 1

    def __str__(self) -> str:
        weakest = f"weakest layer {self.weakest_layer} at {self.weakest_tokens_per_s:.3g} tok/s"
        if self.action is Action.STAY:
            return f"stays at {self.span}: {self.reason}"
        where = f"joined at {self.span}" if self.origin is None else f"moved {self.origin} -> {self.span}"
        gain = f"gain {self.gain:.0%}" if self.tokens_per_s > 0 else self.reason
        return f"{where}: {weakest}, {gain}"
