"""Peers as a scenario draws them: their true speeds, what fits on them, where they are and how long they stay."""

from __future__ import annotations

from dataclasses import dataclass
from math import hypot

import numpy as np

from swarm.sim.scenario import Scenario


@dataclass(frozen=True, slots=True)
class PeerTraits:
    """What a peer is like. Speeds in layers x tokens per second, positions in milliseconds one way."""

    peer_id: str
    speed: float
    claimed_speed: float
    capacity: int
    load_s: float
    x_ms: float
    y_ms: float
    lifetime_s: float
    crashes: bool

    def away_ms(self, x_ms: float, y_ms: float) -> float:
        """How far it is from a point."""
        return hypot(self.x_ms - x_ms, self.y_ms - y_ms)


class Population:
    """Draws peers one after the other; the same seed draws the same peers, whatever is done with them."""

    def __init__(self, scenario: Scenario, seed: int) -> None:
        self._scenario = scenario
        self._seed = seed
        self._drawn = 0

    def first(self, count: int) -> list[PeerTraits]:
        """The peers that the scenario begins with, at the start or later; the giant, if there is one, first."""
        giant = self._scenario.peers.giant
        return [self.draw(giant=giant is not None and n == 0) for n in range(count)]

    def draw(self, *, giant: bool = False) -> PeerTraits:
        """The next peer."""
        rng = np.random.default_rng((self._seed, self._drawn))
        self._drawn += 1
        kind, scenario = self._scenario.peers, self._scenario
        speed = kind.speeds.median * float(np.exp(rng.normal(0.0, kind.speeds.sigma)))
        if kind.speeds.tail is not None:
            speed *= 1.0 + float(rng.pareto(kind.speeds.tail))
        capacity = int(rng.integers(kind.layers[0], kind.layers[1] + 1))
        lifetime_s = float("inf") if kind.lifetime_s is None else float(rng.exponential(kind.lifetime_s))
        if giant and kind.giant is not None:
            speed = kind.speeds.median * kind.giant.speed_factor
            capacity, lifetime_s = int(kind.giant.layers_share * scenario.n_layers), float("inf")
        x_ms, y_ms = self.position(rng)
        return PeerTraits(
            peer_id=f"peer{self._drawn:06d}",
            speed=speed,
            claimed_speed=speed * float(np.exp(rng.normal(0.0, kind.claim_error))),
            capacity=min(max(capacity, 1), scenario.n_layers),
            load_s=float(rng.uniform(*kind.load_s)),
            x_ms=x_ms,
            y_ms=y_ms,
            lifetime_s=lifetime_s,
            crashes=bool(rng.random() < kind.crash_share),
        )

    def position(self, rng: np.random.Generator) -> tuple[float, float]:
        """Where somebody is, peer or caller."""
        regions = self._scenario.regions
        shares = np.array([region.share for region in regions])
        region = regions[int(rng.choice(len(regions), p=shares / shares.sum()))]
        x_ms, y_ms = rng.normal((region.x_ms, region.y_ms), region.spread_ms)
        return float(x_ms), float(y_ms)
