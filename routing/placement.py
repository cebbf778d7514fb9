"""Where a new peer is needed most."""

from __future__ import annotations

from swarm.core.errors import ModelError
from swarm.core.span import Span
from swarm.routing.view import STAYING, SwarmView


def choose_span(
    view: SwarmView,
    n_layers: int,
    capacity: int,
    *,
    precision: str | None = None,
    together: Span | None = None,
) -> Span:
    """The least served `capacity` consecutive layers (all, if there are fewer); the front one of equals.

    Least served: the ascending per-layer throughputs of the window are lexicographically smallest (the rule of Petals,
    Borzunov et al., 2023), so a window with more missing layers always wins. Peers that are joining count as serving,
    so that two newcomers do not fill one hole; draining ones do not. `precision` counts only peers of that precision.
    `together` are layers that one peer must hold all of.

    Raises:
        ModelError: if every window of this length would cut `together`.
    """
    assert n_layers > 0
    assert capacity > 0
    length = min(capacity, n_layers)
    rates = [c.tokens_per_s for c in view.coverage(n_layers, states=STAYING, precision=precision)]
    windows = [Span(start, start + length) for start in range(n_layers - length + 1)]
    whole = [window for window in windows if not window.cuts(together)]
    if not whole:
        raise ModelError(
            f"layers {together} must stay together on one peer, and only {length} layers fit here"
        )
    return min(whole, key=lambda window: (sorted(rates[window.start : window.end]), window.start))
