"""Latencies: measured beats published beats default, and averages stay within what was seen."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swarm.routing.latency import MOST_DENSE, MOST_PREDICTED, LatencyTable
from swarm.routing.links import DenseLinks, SparseLinks
from tests.records import make_record

NAMES = st.sampled_from("abcd")
TIMES = st.floats(0, 10)


def test_unknown_pairs_have_the_default_and_a_node_is_at_no_distance_from_itself() -> None:
    table = LatencyTable(default_s=0.03)
    assert table.link_s("a", "b") == 0.03
    assert table.link_s("a", "a") == 0.0


def test_a_round_trip_counts_half_in_each_direction() -> None:
    table = LatencyTable()
    table.observe_rtt("a", "b", 0.2)
    assert table.link_s("a", "b") == table.link_s("b", "a") == 0.1


def test_later_measurements_move_the_average_by_a_quarter() -> None:
    table = LatencyTable()
    table.observe("a", "b", 0.1)
    table.observe("a", "b", 0.5)
    assert table.link_s("a", "b") == pytest.approx(0.2)


def test_the_other_direction_stands_in_until_this_one_is_measured() -> None:
    table = LatencyTable()
    table.observe("a", "b", 0.1)
    assert table.link_s("b", "a") == 0.1
    table.observe("b", "a", 0.9)
    assert table.link_s("a", "b") == 0.1
    assert table.link_s("b", "a") == 0.9


def test_of_two_claims_the_larger_counts_and_a_measurement_beats_both() -> None:
    table = LatencyTable()
    table.publish([make_record("a", links={"b": 0.0}), make_record("b", links={"a": 0.3, "c": 0.2})])
    assert table.link_s("a", "b") == table.link_s("b", "a") == 0.3
    assert table.link_s("c", "b") == 0.2
    table.observe("a", "b", 0.1)
    assert table.link_s("a", "b") == 0.1


def test_publishing_again_forgets_the_old_claims() -> None:
    table = LatencyTable(default_s=0.05)
    table.publish([make_record("a", links={"b": 0.3})])
    table.publish([make_record("b")])
    assert table.link_s("a", "b") == 0.05


@pytest.mark.parametrize("nonsense", [math.nan, math.inf, -0.1])
def test_impossible_measurements_are_ignored(nonsense: float) -> None:
    table = LatencyTable(default_s=0.05)
    table.observe_rtt("a", "b", nonsense)
    assert table.link_s("a", "b") == 0.05


def test_a_snapshot_holds_the_nearest_measured_peers() -> None:
    table = LatencyTable()
    for n in range(40):
        table.observe("me", f"p{n:02}", 0.1 * (40 - n) + 1e-9)
    table.observe("other", "me", 0.0)
    snapshot = table.snapshot("me")
    assert len(snapshot) == 32
    assert next(iter(snapshot.items())) == ("p39", 0.1)
    assert make_record("me", links=snapshot).links == snapshot


def test_pairs_with_departed_peers_are_forgotten() -> None:
    table = LatencyTable(default_s=0.05)
    table.observe("me", "a", 0.1)
    table.observe("me", "gone", 0.2)
    table.publish([make_record("gone", links={"a": 0.3})])
    table.retain({"me", "a"})
    assert table.link_s("me", "a") == 0.1
    assert table.link_s("me", "gone") == table.link_s("gone", "a") == 0.05


@settings(derandomize=True, deadline=None)
@given(st.lists(TIMES, min_size=1, max_size=20))
def test_the_average_stays_between_the_extremes(times: list[float]) -> None:
    table = LatencyTable()
    for seconds in times:
        table.observe("a", "b", seconds)
    assert min(times) - 1e-9 <= table.link_s("a", "b") <= max(times) + 1e-9


@pytest.mark.slow
@settings(derandomize=True, deadline=None)
@given(
    st.lists(st.tuples(NAMES, NAMES, TIMES), max_size=6),
    st.dictionaries(NAMES, st.dictionaries(NAMES, TIMES, max_size=4), max_size=4),
)
def test_all_pairs_at_once_are_the_same_as_single_questions(
    observed: list[tuple[str, str, float]], published: dict[str, dict[str, float]]
) -> None:
    table = LatencyTable()
    for source, sink, seconds in observed:
        table.observe(source, sink, seconds)
    table.publish(make_record(peer, links=links) for peer, links in published.items())
    peers = ["d", "a", "c"]
    links = table.between(peers)
    found = [[float(links.between(np.array([a]), np.array([b]))[0]) for b in range(3)] for a in range(3)]
    assert found == [[table.link_s(a, b) for b in peers] for a in peers]


@settings(derandomize=True, deadline=None)
@given(
    st.dictionaries(
        st.tuples(st.integers(0, 4), st.integers(0, 4)), st.sampled_from((0.0, 0.1, 0.2, 0.3)), max_size=20
    ),
    st.sets(st.integers(0, 4), min_size=1),
    st.lists(st.sampled_from((0.0, 0.1, 0.2)), min_size=5, max_size=5),
)
def test_few_known_links_are_searched_like_all_of_them(
    known: dict[tuple[int, int], float], sources: set[int], times: list[float]
) -> None:
    pairs = [(a, b, s) for (a, b), s in known.items() if a != b]
    a, b, s = (np.array([pair[n] for pair in pairs]) for n in range(3))
    sparse = SparseLinks.of(5, (a.astype(int), b.astype(int), s.astype(float)), 0.2)
    rows, columns = (grid.ravel() for grid in np.meshgrid(np.arange(5), np.arange(5), indexing="ij"))
    dense = DenseLinks(sparse.between(rows, columns).reshape(5, 5))
    from_, sinks = np.array(sorted(sources)), np.arange(5)
    at_s = np.array(times[: len(from_)])
    for one, other in zip(sparse.nearest(from_, at_s, sinks), dense.nearest(from_, at_s, sinks), strict=True):
        assert one.tolist() == other.tolist()


def test_coordinates_predict_pairs_that_nobody_measured_alone_and_in_tables() -> None:
    table = LatencyTable(default_s=0.05)
    table.publish(
        [
            make_record("a", coordinate=(0.0, 0.0, 0.001, 0.1), links={"b": 0.2}),
            make_record("b", coordinate=(0.03, 0.04, 0.001, 0.1)),
            make_record("c", coordinate=(0.03, 0.04, 0.001, 0.1)),
            make_record("d", coordinate=(9.0, 9.0, 1.0, 0.9)),
        ]
    )
    assert table.link_s("a", "c") == pytest.approx(0.026)
    assert table.known_s("a", "c") is None
    assert table.link_s("b", "c") == pytest.approx(0.001)
    assert table.link_s("a", "b") == 0.2
    assert table.link_s("a", "d") == 0.05, "what is mostly wrong predicts nothing"
    names = ["a", "b", "c", "d"]
    found, every = table.between(names), np.arange(4)
    for i, source in enumerate(names):
        row = found.between(np.full(4, i), every)
        assert row == pytest.approx([table.link_s(source, sink) for sink in names])


def test_large_swarms_are_searched_without_predictions() -> None:
    table = LatencyTable(default_s=0.05)
    names = [f"p{n}" for n in range(MOST_PREDICTED + 1)]
    table.publish([make_record(name, coordinate=(0.0, 0.0, 0.001, 0.1)) for name in names])
    first, second = np.array([1]), np.array([2])
    assert table.between(names).between(first, second) == [0.05]
    assert table.between(names[1:]).between(first, second) == [0.001]


def test_of_the_largest_swarms_only_known_pairs_are_written_out() -> None:
    table = LatencyTable()
    names = [f"p{n}" for n in range(MOST_DENSE + 1)]
    assert isinstance(table.between(names), SparseLinks)
    assert isinstance(table.between(names[1:]), DenseLinks)
