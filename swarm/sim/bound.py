"""What the best placement of given peers serves, by the solver HiGHS (through scipy).

`optimum` is exact and takes exponential time; `relaxed` is the bound that simulations compare with, as a linear
program. `swarm.routing.throughput.best_tokens_per_s` is the closed form of the latter.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from swarm.core.errors import ConfigError, SwarmError
from swarm.routing.throughput import Floats


def check_solver() -> None:
    """Find out before a long run whether the solver is there.

    Raises:
        ConfigError: scipy is missing.
    """
    try:
        import scipy.optimize  # noqa: F401 - only whether it is there
    except ImportError as exc:
        raise ConfigError("simulations need scipy: pip install 'layerswarm[sim]'") from exc


def relaxed(speeds: Sequence[float], lengths: Sequence[int], n_layers: int) -> float:
    """Maximal t, where peer i does u_i layers x tokens per second, u_i <= speed_i, u_i <= length_i t, sum u = L t."""
    from scipy.optimize import linprog

    if sum(lengths) < n_layers:
        return 0.0
    count = len(speeds)
    goal = np.append(np.zeros(count), -1.0)
    held = np.hstack((np.eye(count), -np.asarray(lengths, dtype=float)[:, None]))
    enough = np.append(-np.ones(count), float(n_layers))
    bounds = [(0.0, speed) for speed in speeds] + [(0.0, None)]
    found = linprog(goal, np.vstack((held, enough)), np.zeros(count + 1), bounds=bounds)
    if not found.success:
        raise SwarmError(f"the solver found no bound: {found.message}")
    return float(-found.fun)


def optimum(speeds: Sequence[float], lengths: Sequence[int], n_layers: int) -> float:
    """Tokens per second of the best placement, by a mixed-integer program; for a few peers and layers.

    Variables, for each peer i: y[i, s] whether it starts at layer s, x[i, l] what it does in layer l; and t.
    """
    from scipy.optimize import Bounds, LinearConstraint, milp

    starts = [n_layers - min(length, n_layers) + 1 for length in lengths]
    n_starts, n_work = sum(starts), len(speeds) * n_layers
    size = n_starts + n_work + 1
    upper = np.ones(size)
    upper[n_starts:] = np.inf
    constraints = [
        LinearConstraint(rows, low, high) for rows, low, high in _rows(speeds, lengths, n_layers, starts)
    ]
    found = milp(
        np.append(np.zeros(size - 1), -1.0),
        constraints=constraints,
        integrality=np.append(np.ones(n_starts), np.zeros(n_work + 1)),
        bounds=Bounds(np.zeros(size), upper),
    )
    if found.x is None:
        raise SwarmError(f"the solver found no placement: {found.message}")
    return float(-found.fun)


def _rows(
    speeds: Sequence[float], lengths: Sequence[int], n_layers: int, starts: Sequence[int]
) -> list[tuple[Floats, float, float]]:
    n_starts = sum(starts)
    size = n_starts + len(speeds) * n_layers + 1
    rows: list[tuple[Floats, float, float]] = []
    offset = 0
    for i, (speed, length) in enumerate(zip(speeds, lengths, strict=True)):
        work = n_starts + i * n_layers
        once, all_work = np.zeros(size), np.zeros(size)
        once[offset : offset + starts[i]] = 1.0
        all_work[work : work + n_layers] = 1.0
        rows += [(once, 1.0, 1.0), (all_work, 0.0, speed)]
        for layer in range(n_layers):
            only_held = np.zeros(size)
            only_held[work + layer] = 1.0
            first = max(layer - min(length, n_layers) + 1, 0)
            only_held[offset + first : offset + min(layer, starts[i] - 1) + 1] = -speed
            rows.append((only_held, -np.inf, 0.0))
        offset += starts[i]
    for layer in range(n_layers):
        served = np.zeros(size)
        served[n_starts + layer : size - 1 : n_layers] = 1.0
        served[-1] = -1.0
        rows.append((served, 0.0, np.inf))
    return rows
