"""Placement: holes first, then where the peer raises the throughput most, then the weakest window, the front one."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swarm.core.errors import ModelError
from swarm.core.span import Span
from swarm.routing.placement import Newcomer, join, settle
from swarm.routing.seats import Board, Seat
from swarm.routing.throughput import Shortage
from swarm.routing.view import STAYING, SwarmView
from tests.records import choose_span, make_record, make_view

N_LAYERS = 8


@st.composite
def swarms(draw: st.DrawFn) -> SwarmView:
    records = []
    for n in range(draw(st.integers(0, 6))):
        start = draw(st.integers(0, N_LAYERS - 1))
        records.append(
            make_record(
                f"p{n}",
                (start, draw(st.integers(start + 1, N_LAYERS))),
                N_LAYERS,
                seconds_per_layer=draw(st.sampled_from((0.0, 0.001, 0.01, 0.1))),
                state=draw(st.sampled_from(("online", "online", "joining", "draining"))),
            )
        )
    return make_view(*records)


@st.composite
def boards(draw: st.DrawFn, *, covered: bool) -> Board:
    """Up to eight peers at random places; with `covered`, one of them holds all layers."""
    seats = [Seat("whole", Span(0, N_LAYERS), draw(st.sampled_from((1.0, 8.0))))] if covered else []
    for n in range(draw(st.integers(0, 7))):
        start = draw(st.integers(0, N_LAYERS - 1))
        span = Span(start, draw(st.integers(start + 1, N_LAYERS)))
        seats.append(Seat(f"p{n}", span, draw(st.sampled_from((0.1, 1.0, 5.0, 30.0)))))
    return Board(N_LAYERS, tuple(seats))


def windows(capacity: int) -> list[Span]:
    return [Span(start, start + capacity) for start in range(N_LAYERS - capacity + 1)]


@pytest.mark.slow
@settings(max_examples=200, derandomize=True, deadline=None)
@given(swarms(), st.integers(1, N_LAYERS))
def test_while_layers_are_missing_no_other_window_is_served_less(view: SwarmView, capacity: int) -> None:
    coverage = view.coverage(N_LAYERS, states=STAYING)
    chosen = choose_span(view, N_LAYERS, capacity)

    def missing(span: Span) -> int:
        return sum(not c.peers for c in coverage[span.start : span.end])

    def rates(span: Span) -> list[float]:
        return sorted(c.tokens_per_s for c in coverage[span.start : span.end])

    assert len(chosen) == capacity
    assert missing(chosen) == max(missing(span) for span in windows(capacity))
    for span in windows(capacity):
        if missing(span) == missing(chosen) > 0:
            assert rates(chosen) <= rates(span)
            assert span.start >= chosen.start or rates(chosen) < rates(span)


@pytest.mark.slow
@settings(max_examples=200, derandomize=True, deadline=None)
@given(boards(covered=True), st.integers(1, N_LAYERS), st.sampled_from((0.5, 3.0, 40.0)))
def test_no_other_window_brings_the_swarm_closer_to_the_best_possible(
    board: Board, capacity: int, speed: float
) -> None:
    decision = join(board, Newcomer("new", capacity, speed))

    def lacking(span: Span) -> float:
        after = replace(board, seats=(*board.seats, Seat("new", span, speed)))
        return float(Shortage(after.grid, decision.best_tokens_per_s).missing)

    least = min(lacking(span) for span in windows(capacity))
    assert lacking(decision.span) <= least + 0.01 * speed + 1e-9
    assert decision.expected_tokens_per_s >= decision.tokens_per_s * (1 - 1e-9)


def test_a_place_with_fewer_peers_than_wanted_goes_before_a_slow_one() -> None:
    seats = (Seat("fast", Span(0, 4), 900.0), Seat("slow", Span(4, 8), 9.0), Seat("too", Span(4, 8), 9.0))
    board = Board(8, seats)
    assert join(board, Newcomer("new", 4, 9.0)).span == Span(4, 8)
    assert join(board, Newcomer("new", 4, 9.0), replicas=2).span == Span(0, 4)


def test_of_peers_that_claim_one_hole_at_once_all_but_one_go_elsewhere() -> None:
    serving = tuple(Seat(f"old{n}", Span(0, 4), 10.0) for n in range(3))
    claims = tuple(Seat(f"new{n}", Span(4, 8), 10.0, ready=False) for n in range(3))
    board = Board(12, serving + claims)
    spans = sorted(str(settle(board, seat.peer_id).span) for seat in claims)
    assert spans == ["4:8", "8:12", "8:12"]


def test_a_decision_says_why() -> None:
    decision = join(
        Board(8, (Seat("a", Span(0, 8), 16.0), Seat("b", Span(0, 4), 80.0))), Newcomer("new", 4, 8.0)
    )
    assert str(decision) == "joined at 4:8: weakest layer 4 at 2 tok/s, gain 50%"
    first = join(Board(8, (Seat("a", Span(0, 4), 16.0),)), Newcomer("new", 4, 8.0))
    assert str(first) == "joined at 4:8: weakest layer 4 at 0 tok/s, closes a hole"


@settings(max_examples=50, derandomize=True, deadline=None)
@given(st.lists(st.integers(1, N_LAYERS), min_size=1, max_size=12))
def test_peers_that_join_one_after_another_complete_the_model_before_they_double_it(
    capacities: list[int],
) -> None:
    view = make_view()
    for n, capacity in enumerate(capacities):
        span = choose_span(view, N_LAYERS, capacity)
        was_missing = sum(map(len, view.missing_layers(N_LAYERS)))
        view = make_view(*view.peers, make_record(f"p{n}", (span.start, span.end), N_LAYERS))
        assert sum(map(len, view.missing_layers(N_LAYERS))) == max(was_missing - capacity, 0)


def test_the_first_peer_takes_the_front() -> None:
    assert choose_span(make_view(), 12, 5) == Span(0, 5)


def test_more_capacity_than_layers_takes_them_all() -> None:
    assert choose_span(make_view(), 12, 50) == Span(0, 12)


def test_a_hole_in_the_middle_is_filled() -> None:
    view = make_view(make_record("a", (0, 4)), make_record("b", (8, 12)))
    assert choose_span(view, 12, 4) == Span(4, 8)


def test_the_slowest_place_is_strengthened() -> None:
    view = make_view(
        make_record("fast", (0, 6), seconds_per_layer=0.001),
        make_record("slow", (6, 12), seconds_per_layer=0.1),
    )
    assert choose_span(view, 12, 4) == Span(6, 10)


def test_a_joining_peer_holds_its_place_and_a_draining_one_does_not() -> None:
    joining, draining = make_record("a", (0, 6), state="joining"), make_record("b", (6, 12), state="draining")
    assert choose_span(make_view(joining, draining), 12, 6) == Span(6, 12)


def test_peers_of_other_precisions_can_be_left_out() -> None:
    view = make_view(
        make_record("a", (0, 6), precision="float32"), make_record("b", (6, 12), precision="nf4")
    )
    assert choose_span(view, 12, 6, precision="nf4") == Span(0, 6)
    assert choose_span(view, 12, 6, precision="float32") == Span(6, 12)


def test_layers_that_stay_together_are_not_divided() -> None:
    view = make_view(make_record("front", (0, 6), 12))
    assert choose_span(view, 12, 4) == Span(6, 10)
    assert choose_span(view, 12, 4, together=Span(8, 12)) == Span(8, 12)
    with pytest.raises(ModelError, match="0:4 must stay together"):
        choose_span(make_view(), 4, 3, together=Span(0, 4))
