"""What a placement can serve: equal to a linear program, and never more than the bound."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swarm.core.span import Span
from swarm.routing.throughput import Shortage, add, best_tokens_per_s, inside, tokens_per_s

N_LAYERS = 6
SPEEDS = st.sampled_from((1e-3, 0.5, 1.0, 2.0, 7.0, 1e4))
Peers = list[tuple[Span, float]]


@st.composite
def spans(draw: st.DrawFn) -> Span:
    start = draw(st.integers(0, N_LAYERS - 1))
    return Span(start, draw(st.integers(start + 1, N_LAYERS)))


PEERS = st.lists(st.tuples(spans(), SPEEDS), max_size=7)


def grid_of(peers: Peers) -> np.ndarray:
    return inside([span for span, _ in peers], [speed for _, speed in peers], N_LAYERS)


def bound_of(peers: Peers) -> float:
    return best_tokens_per_s([speed for _, speed in peers], [len(span) for span, _ in peers], N_LAYERS)


def by_linear_program(peers: Peers, wanted: float | None = None) -> float:
    """The most tokens per second; with `wanted`, all work that can be done towards so many in each layer."""
    from scipy.optimize import linprog

    size = len(peers) * N_LAYERS
    limits, right = [], []
    for i, (_, speed) in enumerate(peers):
        row = np.zeros(size + 1)
        row[i * N_LAYERS : (i + 1) * N_LAYERS] = 1.0
        limits.append(row)
        right.append(speed)
    for layer in range(N_LAYERS):
        row = np.zeros(size + 1)
        row[layer:size:N_LAYERS] = -1.0 if wanted is None else 1.0
        row[-1] = 1.0 if wanted is None else 0.0
        limits.append(row)
        right.append(0.0 if wanted is None else wanted)
    goal = np.zeros(size + 1)
    if wanted is None:
        goal[-1] = -1.0
    else:
        goal[:-1] = -1.0
    held = [(0.0, None if layer in span else 0.0) for span, _ in peers for layer in range(N_LAYERS)]
    return float(-linprog(goal, np.array(limits), right, bounds=[*held, (0.0, None)]).fun)


@pytest.mark.slow
@settings(max_examples=150, derandomize=True, deadline=None)
@given(PEERS)
def test_throughput_equals_a_linear_program(peers: Peers) -> None:
    found = tokens_per_s(grid_of(peers), bound_of(peers))
    assert found == pytest.approx(by_linear_program(peers), rel=1e-6, abs=1e-6)


@pytest.mark.slow
@settings(max_examples=150, derandomize=True, deadline=None)
@given(PEERS, st.sampled_from((0.1, 1.0, 5.0)))
def test_what_is_missing_equals_a_linear_program(peers: Peers, wanted: float) -> None:
    done = by_linear_program(peers, wanted)
    assert float(Shortage(grid_of(peers), wanted).missing) == pytest.approx(
        N_LAYERS * wanted - done, rel=1e-6, abs=1e-6
    )


@settings(max_examples=100, derandomize=True, deadline=None)
@given(PEERS, spans(), SPEEDS, st.sampled_from((0.1, 1.0, 5.0, 1e3)))
def test_slack_is_what_a_further_peer_can_use(peers: Peers, span: Span, speed: float, wanted: float) -> None:
    grid = grid_of(peers)
    before = Shortage(grid, wanted)
    more = grid.copy()
    add(more, span, speed)
    relief = float(before.missing - Shortage(more, wanted).missing)
    assert relief == pytest.approx(min(speed, float(before.slack[span.start, span.end])), rel=1e-6, abs=1e-6)


@settings(max_examples=100, derandomize=True, deadline=None)
@given(PEERS)
def test_no_placement_exceeds_the_bound(peers: Peers) -> None:
    bound = bound_of(peers)
    assert tokens_per_s(grid_of(peers), sum(speed for _, speed in peers)) <= bound * (1 + 1e-9) + 1e-12
    for span, _ in peers:
        missing = Span(0, N_LAYERS) != span and bound == 0.0
        assert not missing or sum(len(other) for other, _ in peers) < N_LAYERS


def test_several_placements_at_once_are_judged_like_each_alone() -> None:
    some = [(Span(0, 4), 3.0), (Span(2, 6), 5.0)]
    grids = np.stack([grid_of(some), grid_of(some[:1]), grid_of([])])
    together = Shortage(grids, 1.5)
    for i, grid in enumerate(grids):
        alone = Shortage(grid, 1.5)
        assert together.missing[i] == alone.missing
        assert np.array_equal(together.slack[i], alone.slack, equal_nan=True)


@settings(max_examples=200, derandomize=True, deadline=None)
@given(st.lists(st.tuples(spans(), st.floats(1e-3, 1e6)), max_size=12))
def test_with_a_hole_nothing_is_served_at_all(peers: Peers) -> None:
    hole = any(all(layer not in span for span, _ in peers) for layer in range(N_LAYERS))
    assert (tokens_per_s(grid_of(peers), bound_of(peers)) == 0.0) is (hole or bound_of(peers) == 0.0)
