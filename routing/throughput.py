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
_ROUNDING = 1e-12


def inside(spans: Sequence[Span], speeds: Sequence[float], n_layers: int) -> Floats:
    """`[L + 1, L + 1]` total speed of the peers whose span lies inside of `[a, b)`."""
    size = n_layers + 1
    places = [span.start * size + span.end for span in spans]
    here = np.bincount(np.array(places, dtype=np.int64), speeds, size * size)
    grid = here.astype(float).reshape(size, size)  # of no peers, bincount makes integers
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
        return _surplus(self.inside, self.target)

    @cached_property
    def _front(self) -> Floats:
        return _best_in_front(self._surplus)

    @cached_property
    def missing(self) -> Floats:
        """`[..]` layers x tokens per second that nobody can do."""
        front = self._front
        whole = self._surplus[..., 0, -1]
        return np.maximum(front[..., -1] - whole, 0.0)

    @cached_property
    def slack(self) -> Floats:
        """`[.., s, e]` how much of its speed a further peer with the span `[s, e)` could use; nan if it is empty.

        A peer of speed v there lowers `missing` by `min(v, slack)`, exactly.
        """
        front = self._front
        back = _best_in_front(self._surplus.swapaxes(-1, -2)[..., ::-1, ::-1])[..., ::-1]
        n = self.inside.shape[-1]
        through = front[..., :, None] + self._surplus + back[..., None, :]
        empty = np.arange(n) <= np.arange(n)[:, None]
        through[..., empty] = -np.inf
        around = np.maximum.accumulate(through, axis=-2)
        around = np.maximum.accumulate(around[..., ::-1], axis=-1)[..., ::-1]
        found = np.maximum(front[..., -1, None, None] - around, 0.0)
        found[..., empty] = np.nan
        return np.asarray(found)


def tokens_per_s(grid: Floats, at_most: float) -> float:
    """The most tokens per second that the placement `[L + 1, L + 1]` (see `inside`) serves, by Newton's method.

    `at_most` is any upper bound, such as `best_tokens_per_s`.
    """
    rate = at_most
    for _ in range(_MAX_NEWTON):
        touching, layers = _worst_set(grid, rate)
        if layers == 0 or touching >= rate * layers * (1 - 1e-9):
            break
        rate = touching / layers
    return max(rate, 0.0)


def _worst_set(grid: Floats, rate: float) -> tuple[float, int]:
    """Speed that touches, and number of layers of, the set that lacks most at `rate` tokens per second."""
    surplus = _surplus(grid, rate)
    best = _best_in_front(surplus)
    skipped, held, b = 0, 0.0, len(best) - 1
    while b > 0:
        if best[b] == best[b - 1]:
            b -= 1
            continue
        a = int((best[:b] + surplus[:b, b]).argmax())
        skipped, held, b = skipped + b - a, held + float(grid[a, b]), a
    total = float(grid[0, -1])
    touching = total - held
    # what rounding leaves of sums in another order is nothing, else a hole would look served
    return touching if touching > _ROUNDING * total else 0.0, len(best) - 1 - skipped


def _surplus(grid: Floats, rate: float) -> Floats:
    """`[.., a, b]` speed inside of `[a, b)` beyond what those layers need."""
    boundaries = np.arange(grid.shape[-1])
    return np.asarray(grid - rate * (boundaries - boundaries[:, None]))


def _best_in_front(surplus: Floats) -> Floats:
    """`[.., L + 1]` the largest surplus of disjoint gaps in front of each boundary."""
    best = np.zeros(surplus.shape[:-1])
    helps = (surplus > 0) & np.tri(surplus.shape[-1], k=-1, dtype=bool).T
    begins = helps.reshape(-1, *surplus.shape[-2:]).any(axis=(0, 2))  # in a balanced swarm few gaps help
    for a in np.flatnonzero(begins):
        front = best[..., : a + 1].max(axis=-1, keepdims=True)
        behind = best[..., a + 1 :]
        np.maximum(behind, front + surplus[..., a, a + 1 :], out=behind)
    return np.maximum.accumulate(best, axis=-1)


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
