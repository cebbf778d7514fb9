"""Coordinates: they learn a metric from few of its pairs, stay bounded whatever comes, and settle."""

from __future__ import annotations

import random
from statistics import median

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from swarm.routing.position import Position
from swarm.routing.vivaldi import FARTHEST_S, LEAST_HEIGHT_S, Coordinate
from tests.records import make_record

NODES = 40


def learned(seed: int, partners: int) -> tuple[list[Coordinate], np.ndarray, set[tuple[int, int]]]:
    """Coordinates of nodes in a plane with access delays, the true round trips, and which pairs were measured."""
    rng, dice = np.random.default_rng(seed), random.Random(seed)
    places, access_s = rng.uniform(0, 0.1, (NODES, 2)), rng.uniform(0.0, 0.01, NODES)
    flat_s = np.linalg.norm(places[:, None] - places[None], axis=2)
    true_s = flat_s + access_s[:, None] + access_s[None]
    near = {(i, int(j)) for i in range(NODES) for j in rng.choice(NODES, partners, replace=False) if i != j}
    nodes = [Coordinate() for _ in range(NODES)]
    for _ in range(60):
        for i, j in sorted(near, key=lambda _: dice.random()):
            rtt_s = float(true_s[i, j]) * dice.uniform(0.95, 1.1)
            nodes[i] = nodes[i].moved(nodes[j], rtt_s, dice.random)
    return nodes, true_s, near | {(j, i) for i, j in near}


@pytest.mark.parametrize("seed", range(5))
def test_pairs_that_never_met_are_predicted(seed: int) -> None:
    nodes, true_s, met = learned(seed, partners=8)
    wrong = [
        abs(nodes[i].rtt_s(nodes[j]) - true_s[i, j]) / true_s[i, j]
        for i in range(NODES)
        for j in range(NODES)
        if i != j and (i, j) not in met
    ]
    assert median(wrong) < 0.15
    assert sorted(wrong)[int(0.9 * len(wrong))] < 0.75
    assert median(node.error for node in nodes) < 0.2


finite = st.floats(-FARTHEST_S, FARTHEST_S)
coordinates = st.builds(
    Coordinate, finite, finite, st.floats(LEAST_HEIGHT_S, FARTHEST_S), st.floats(0.0, 1.0)
)


@given(own=coordinates, other=coordinates, rtt_s=st.floats(0, 1e6), angle=st.floats(0, 1))
@settings(max_examples=300, deadline=None)
def test_whatever_others_claim_a_coordinate_stays_within_bounds(
    own: Coordinate, other: Coordinate, rtt_s: float, angle: float
) -> None:
    moved = own.moved(other, rtt_s, lambda: angle)
    assert abs(moved.x_s) <= FARTHEST_S
    assert abs(moved.y_s) <= FARTHEST_S
    assert LEAST_HEIGHT_S <= moved.height_s <= FARTHEST_S
    assert 0.0 < moved.error <= 1.0
    assert moved.rtt_s(other) == other.rtt_s(moved) > 0
    x_s, y_s, height_s, error = moved.x_s, moved.y_s, moved.height_s, moved.error
    assert make_record(coordinate=(x_s, y_s, height_s, error)).coordinate is not None


@pytest.mark.parametrize(
    "coordinate",
    [(61.0, 0, 0, 0), (0, 0, -1.0, 0), (0, 0, 0, 1.5), (float("nan"), 0, 0, 0), (0, 0, 0), (0,) * 5],
)
def test_impossible_coordinates_are_no_records(coordinate: tuple[float, ...]) -> None:
    with pytest.raises(ValidationError):
        make_record(coordinate=coordinate)


def test_peers_find_their_places_from_round_trips_and_records() -> None:
    positions = {name: Position(random.Random(name).random) for name in "abc"}
    true_s = {("a", "b"): 0.1, ("a", "c"): 0.1, ("b", "c"): 0.02}
    for _ in range(200):
        records = {
            name: make_record(name, coordinate=position.published) for name, position in positions.items()
        }
        for name, position in positions.items():
            others = [other for other in "abc" if other != name]
            position.learn([(o, true_s[min(name, o), max(name, o)]) for o in others] + [("d", None)], records)
    places = {name: Coordinate(*position.published) for name, position in positions.items()}
    for (a, b), rtt_s in true_s.items():
        assert places[a].rtt_s(places[b]) == pytest.approx(rtt_s, rel=0.1)


def test_a_measurement_brings_the_prediction_nearer_to_it() -> None:
    a, b = Coordinate(), Coordinate(0.03, 0.04, 0.001, 0.3)
    for rtt_s in (0.2, 0.01):
        assert abs(a.moved(b, rtt_s, lambda: 0.1).rtt_s(b) - rtt_s) < abs(a.rtt_s(b) - rtt_s)
