"""Where this node is in the network's coordinates, by its round trips to peers that publish theirs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from swarm.routing.records import PeerRecord
from swarm.routing.vivaldi import Coordinate

DIGITS = 6  # microseconds; records are small


class Position:
    """Moves with every look at the links; starts anywhere, knowing nothing. `draw` gives numbers from [0, 1)."""

    def __init__(self, draw: Callable[[], float]) -> None:
        self._draw = draw
        self.place = Coordinate()

    def learn(self, rtts_s: Iterable[tuple[str, float | None]], records: Mapping[str, PeerRecord]) -> None:
        """Take in the round trips to linked peers, as far as they are measured and the peers say where they are."""
        for peer_id, rtt_s in rtts_s:
            record = records.get(peer_id)
            if rtt_s is not None and record is not None and record.coordinate is not None:
                self.place = self.place.moved(Coordinate(*record.coordinate), rtt_s, self._draw)

    @property
    def published(self) -> tuple[float, float, float, float]:
        """As records carry it."""
        place = self.place
        x_s, y_s, height_s, error = (
            round(value, DIGITS) for value in (place.x_s, place.y_s, place.height_s, place.error)
        )
        return x_s, y_s, height_s, error
