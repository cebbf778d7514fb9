"""Network coordinates that predict round trips between nodes which never met (Vivaldi; Dabek et al., SIGCOMM 2004).

Every node has a place in a plane and a height above it: what its own access to the network adds to each way. Each
measured round trip moves it a little, as a spring between the two nodes would.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import cos, hypot, pi, sin

COORDINATE_GAIN = 0.25
ERROR_GAIN = 0.25
WORST_ERROR = 1.0
LEAST_ERROR = 0.01  # a node that thinks that it is perfect would never move again
LEAST_HEIGHT_S = 1e-5
LEAST_RTT_S = 1e-5
FARTHEST_S = 60.0


@dataclass(frozen=True, slots=True)
class Coordinate:
    """A place, in seconds of round trip; `error` is how wrong its predictions are, as a share, 1 knowing nothing."""

    x_s: float = 0.0
    y_s: float = 0.0
    height_s: float = LEAST_HEIGHT_S
    error: float = WORST_ERROR

    def rtt_s(self, other: Coordinate) -> float:
        """The predicted round trip."""
        return hypot(self.x_s - other.x_s, self.y_s - other.y_s) + (self.height_s + other.height_s)

    def moved(self, other: Coordinate, rtt_s: float, angle: Callable[[], float]) -> Coordinate:
        """Where this node is after a round trip to one at `other`.

        `angle` draws a direction (0 to 1, a part of the circle) for nodes that stand at the same place.
        """
        rtt_s = min(max(rtt_s, LEAST_RTT_S), FARTHEST_S)
        expected_s = self.rtt_s(other)
        weight = self.error / (self.error + max(other.error, LEAST_ERROR))
        wrong = abs(expected_s - rtt_s) / rtt_s
        share = ERROR_GAIN * weight
        error = min(max(wrong * share + self.error * (1 - share), LEAST_ERROR), WORST_ERROR)
        return replace(
            self._pushed(other, COORDINATE_GAIN * weight * (rtt_s - expected_s), angle), error=error
        )

    def _pushed(self, other: Coordinate, by_s: float, angle: Callable[[], float]) -> Coordinate:
        """Farther from `other` by so much, nearer if negative."""
        away_x, away_y = self.x_s - other.x_s, self.y_s - other.y_s
        flat_s = hypot(away_x, away_y)
        if flat_s < LEAST_HEIGHT_S:
            turn = 2 * pi * angle()
            away_x, away_y, flat_s = LEAST_HEIGHT_S * cos(turn), LEAST_HEIGHT_S * sin(turn), LEAST_HEIGHT_S
        whole_s = flat_s + self.height_s + other.height_s
        return replace(
            self,
            x_s=_bounded(self.x_s + by_s * away_x / whole_s),
            y_s=_bounded(self.y_s + by_s * away_y / whole_s),
            height_s=min(
                max(self.height_s + by_s * (self.height_s + other.height_s) / whole_s, LEAST_HEIGHT_S),
                FARTHEST_S,
            ),
        )


def _bounded(place_s: float) -> float:
    return min(max(place_s, -FARTHEST_S), FARTHEST_S)
