"""The true state of a simulated swarm: who is there, serves which layers and how fast, and what that can serve."""

from __future__ import annotations

from dataclasses import dataclass, field

from swarm.core.span import Span
from swarm.routing.seats import Seat
from swarm.routing.throughput import best_tokens_per_s, inside, tokens_per_s
from swarm.sim.population import PeerTraits

_SMOOTHING = 0.3  # of a peer's own measurement of its speed, at each publication


@dataclass(slots=True)
class SimPeer:
    """A peer as it is, and what it says of itself."""

    traits: PeerTraits
    span: Span
    ready: bool = False
    was_ready: bool = False
    announced: float = 0.0
    loads: int = 0  # how often it began to load: an older load that ends is no longer of interest
    reviews: int = 0  # likewise of reviews
    speed: float = field(init=False)  # layers x tokens per second at this moment
    _seat: Seat | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        self.speed = self.traits.speed

    @property
    def peer_id(self) -> str:
        return self.traits.peer_id

    def measure(self) -> bool:
        """Let the announced speed follow the true one; whether it changed."""
        if abs(self.announced / self.speed - 1) < 0.01 or not self.ready:
            return False
        self.announced += _SMOOTHING * (self.speed - self.announced)
        return True

    def seat(self) -> Seat:
        """What its record says."""
        known = self._seat
        if known is None or (known.span, known.speed, known.ready) != (self.span, self.announced, self.ready):
            known = Seat(self.peer_id, self.span, self.announced, ready=self.ready, load_s=self.traits.load_s)
            self._seat = known
        return known


class World:
    """Everybody who is there, with what they can serve together and what they could serve at best."""

    def __init__(self, n_layers: int) -> None:
        self.n_layers = n_layers
        self.peers: dict[str, SimPeer] = {}
        self._dirty = True
        self._capacity = self._best = 0.0

    def changed(self) -> None:
        """Somebody came, left, moved, or runs at another speed."""
        self._dirty = True

    @property
    def capacity(self) -> float:
        """Tokens per second that the peers serve at most, where they are."""
        self._refresh()
        return self._capacity

    @property
    def best(self) -> float:
        """Tokens per second that no placement of all peers that have once loaded can exceed."""
        self._refresh()
        return self._best

    @property
    def covered(self) -> bool:
        """Whether every layer is served."""
        return self.capacity > 0

    def present(self) -> list[SimPeer]:
        """Everybody who has loaded once, whom any placement could use."""
        return [peer for peer in self.peers.values() if peer.was_ready]

    def serving(self) -> list[SimPeer]:
        """Everybody who serves at this moment."""
        return [peer for peer in self.peers.values() if peer.ready]

    def _refresh(self) -> None:
        if not self._dirty:
            return
        self._dirty = False
        present = self.present()
        self._best = best_tokens_per_s(
            [peer.speed for peer in present], [peer.traits.capacity for peer in present], self.n_layers
        )
        serving = self.serving()
        grid = inside([peer.span for peer in serving], [peer.speed for peer in serving], self.n_layers)
        self._capacity = tokens_per_s(grid, self._best)
