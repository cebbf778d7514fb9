"""The best possible placement: by brute force, by a solver, and as a bound."""

from __future__ import annotations

from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swarm.core.span import Span
from swarm.routing.throughput import best_tokens_per_s, inside, tokens_per_s
from swarm.sim.bound import optimum, relaxed

N_LAYERS = 4
PEERS = st.lists(
    st.tuples(st.sampled_from((0.5, 1.0, 3.0, 20.0)), st.integers(1, N_LAYERS + 1)), min_size=1, max_size=4
)


def by_brute_force(peers: list[tuple[float, int]]) -> float:
    best = 0.0
    speeds = [speed for speed, _ in peers]
    places = [
        [Span(start, start + min(length, N_LAYERS)) for start in range(N_LAYERS - min(length, N_LAYERS) + 1)]
        for _, length in peers
    ]
    for spans in product(*places):
        best = max(best, tokens_per_s(inside(spans, speeds, N_LAYERS), sum(speeds)))
    return best


@pytest.mark.slow
@settings(max_examples=60, derandomize=True, deadline=None)
@given(PEERS)
def test_the_solver_finds_what_brute_force_finds(peers: list[tuple[float, int]]) -> None:
    speeds, lengths = [speed for speed, _ in peers], [length for _, length in peers]
    best = by_brute_force(peers)
    assert optimum(speeds, lengths, N_LAYERS) == pytest.approx(best, rel=1e-6, abs=1e-6)
    assert best_tokens_per_s(speeds, lengths, N_LAYERS) >= best * (1 - 1e-9)


@settings(max_examples=100, derandomize=True, deadline=None)
@given(PEERS, st.integers(1, 12))
def test_the_closed_form_of_the_bound_is_the_linear_program(
    peers: list[tuple[float, int]], n_layers: int
) -> None:
    speeds, lengths = [speed for speed, _ in peers], [min(length, n_layers) for _, length in peers]
    found = best_tokens_per_s(speeds, lengths, n_layers)
    assert found == pytest.approx(relaxed(speeds, lengths, n_layers), rel=1e-6, abs=1e-9)
