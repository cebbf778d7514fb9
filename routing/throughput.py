"""How many tokens per second a placement can serve, what lacks to a target, and where more speed would help.

A peer shares its speed (layers x tokens per second) freely among the layers of its span, because chains enter and leave
spans anywhere. Serving `t` tokens per second through every layer is then a transport problem, and by Hall's theorem it
is possible exactly if every set of layers is touched by peers of at least `t` times its size. What touches a set is
everything except the peers that lie inside of a gap between its layers, so the worst set is found by one pass over the
boundaries. Axes: B placements, L layers; `[.., a, b]` is about the layers `[a, b)`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from swarm.core.span import Span

Floats = NDArray[np.float64]

_MAX_NEWTON = 64


def inside(spans: Sequence[Span], speeds: Sequence[float], n_layers: int) -> Floats:
    """`[L + 1, L + 1]` total speed of the peers whose span lies inside of `[a, b)`."""
    grid = np.zeros((n_layers + 1, n_layers + 1))
    if spans:
        starts, ends = np.array([(span.start, span.end) for span in spans]).T
        np.add.at(grid, (starts, ends), speeds)
    return np.asarray(grid[::-1].cumsum(axis=0)[::-1].cumsum(axis=1))


def add(grid: Floats, span: Span, speed: float) -> None:
    """Put one peer (of negative speed: take one peer) into what `inside` returned, in place."""
    grid[..., : span.start + 1, span.end :] += speed


@dataclass(frozen=True, eq=False)
class Shortage:
    """What a placement lacks to `target` tokens per second.

    Attributes:
        inside: `[.., L + 1, L + 1]` as `inside` returns it.
        target: wanted tokens per second.
    """

    inside: Floats
    target: float

    @cached_property
    def _surplus(self) -> Floats:
        """`[.., a, b]` speed inside of `[a, b)` beyond what those layers need."""
        n = self.inside.shape[-1]
        wanted = self.target * (np.arange(n) - np.arange(n)[:, None])
        return np.asarray(self.inside - wanted)

    @cached_property
    def _best(self) -> tuple[Floats, Floats]:
        """`[.., L + 1]` the largest surplus of disjoint gaps in front of each boundary, and behind it."""
        surplus, n = self._surplus, self.inside.shape[-1]
        front, back = np.zeros(surplus.shape[:-1]), np.zeros(surplus.shape[:-1])
        for b in range(1, n):
            front[..., b] = (front[..., :b] + surplus[..., :b, b]).max(axis=-1)
            np.maximum(front[..., b], front[..., b - 1], out=front[..., b])
        for a in range(n - 2, -1, -1):
            back[..., a] = (back[..., a + 1 :] + surplus[..., a, a + 1 :]).max(axis=-1)
            np.maximum(back[..., a], back[..., a + 1], out=back[..., a])
        return front, back

    @cached_property
    def missing(self) -> Floats:
        """`[..]` layers x tokens per second that nobody can do."""
        front, _ = self._best
        whole = self._surplus[..., 0, -1]
        return np.maximum(front[..., -1] - whole, 0.0)

    @cached_property
    def slack(self) -> Floats:
        """`[.., s, e]` how much of its speed a further peer with the span `[s, e)` could use; nan if it is empty.

        A peer of speed v there lowers `missing` by `min(v, slack)`, exactly.
        """
        front, back = self._best
        n = self.inside.shape[-1]
        through = front[..., :, None] + self._surplus + back[..., None, :]
        empty = np.arange(n) <= np.arange(n)[:, None]
        through[..., empty] = -np.inf
        around = np.maximum.accumulate(through, axis=-2)
        around = np.maximum.accumulate(around[..., ::-1], axis=-1)[..., ::-1]
        found = np.maximum(front[..., -1, None, None] - around, 0.0)
        found[..., empty] = np.nan
        return np.asarray(found)


def tokens_per_s(grid: Floats) -> float:
    """The most tokens per second that the placement `[L + 1, L + 1]` (see `inside`) serves, by Newton's method."""
    total, n_layers = float(grid[0, -1]), grid.shape[0] - 1
    rate = total / n_layers
    for _ in range(_MAX_NEWTON):
        touching, layers = _worst_set(grid, rate)
        if layers == 0 or touching >= rate * layers * (1 - 1e-9):
            break
        rate = touching / layers
    return max(rate, 0.0)


def _worst_set(grid: Floats, rate: float) -> tuple[float, int]:
    """Speed that touches, and number of layers of, the set that lacks most at `rate` tokens per second."""
    n = grid.shape[0]
    best, skipped, held = np.zeros(n), np.zeros(n, dtype=np.int64), np.zeros(n)
    boundaries = np.arange(n)
    for b in range(1, n):
        values = best[:b] + grid[:b, b] - rate * (b - boundaries[:b])
        a = int(values.argmax())
        if values[a] > best[b - 1]:
            best[b], skipped[b], held[b] = values[a], skipped[a] + b - a, held[a] + grid[a, b]
        else:
            best[b], skipped[b], held[b] = best[b - 1], skipped[b - 1], held[b - 1]
    return max(float(grid[0, -1] - held[-1]), 0.0), n - 1 - int(skipped[-1])


def best_tokens_per_s(speeds: Sequence[float], lengths: Sequence[int], n_layers: int) -> float:
    """An upper bound of what any placement of these peers serves; 0 if they cannot hold all layers.

    A peer does no more than its speed, and no more than every token in each layer that it holds:
    t * n_layers <= sum of min(speed, length * t).
    """
    if sum(lengths) < n_layers:
        return 0.0
    speed, length = np.asarray(speeds, dtype=float), np.minimum(np.asarray(lengths, dtype=float), n_layers)
    order = np.argsort(speed / length)
    speed, length = speed[order], length[order]
    slower = np.concatenate(([0.0], speed.cumsum()))
    faster = np.concatenate((length[::-1].cumsum()[::-1], [0.0]))
    # with the k slowest used fully: t = slower[k] / (n_layers - faster[k]); the least such t is the bound
    room = n_layers - faster
    candidates = slower[room > 0] / room[room > 0]
    return float(candidates.min())
