"""Balancing: holes are closed by one peer, nothing is torn open, and a swarm at rest stays at rest."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swarm.core.span import Span
from swarm.routing.balance import EPOCH_S, Goal, Move, is_urgent, plan_moves, review, review_delay_s
from swarm.routing.decision import Action
from swarm.routing.seats import Board, Seat
from tests.records import make_record, make_view

N_LAYERS = 8
GOAL = Goal()


@st.composite
def boards(draw: st.DrawFn, most: int = 10) -> Board:
    seats = []
    for n in range(draw(st.integers(1, most))):
        start = draw(st.integers(0, N_LAYERS - 1))
        seats.append(
            Seat(
                f"p{n}",
                Span(start, draw(st.integers(start + 1, N_LAYERS))),
                draw(st.sampled_from((1.0, 2.0, 5.0, 40.0))),
                ready=draw(st.sampled_from((True, True, True, False))),
                pinned=draw(st.sampled_from((False, False, False, True))),
                sessions=draw(st.sampled_from((0, 0, 3, 1000))),
            )
        )
    return Board(N_LAYERS, tuple(seats))


GOALS = st.builds(Goal, replicas=st.sampled_from((1, 1, 2)), parallel=st.sampled_from((1 / 16, 0.5)))


def done(board: Board, moves: Iterable[Move], *, ready: bool) -> Board:
    spans = {move.seat.peer_id: move.span for move in moves}
    seats = (
        replace(seat, span=spans[seat.peer_id], ready=ready) if seat.peer_id in spans else seat
        for seat in board.seats
    )
    return replace(board, seats=tuple(seats))


@pytest.mark.slow
@settings(max_examples=150, derandomize=True, deadline=None)
@given(boards(), GOALS, st.sampled_from((0.0, 61.0, 1e9)))
def test_a_move_never_leaves_a_hole(board: Board, goal: Goal, now: float) -> None:
    ready_before, serving_before = board.counts(ready=True), board.counts()
    moves = plan_moves(board, goal, now)
    away = done(board, moves, ready=False)
    for move in moves:
        for layer in range(move.seat.span.start, move.seat.span.end):
            left = layer not in move.span
            assert not left or away.counts(ready=True)[layer] > 0
    if serving_before.min() > 0 and ready_before.min() > 0:
        assert away.counts(ready=True).min() > 0  # not even while they load


@pytest.mark.slow
@settings(max_examples=150, derandomize=True, deadline=None)
@given(boards(), GOALS)
def test_who_is_pinned_or_on_its_way_never_moves(board: Board, goal: Goal) -> None:
    for move in plan_moves(board, goal, 0.0):
        assert move.seat.ready
        assert not move.seat.pinned
        assert len(move.span) == len(move.seat.span)
        assert move.span != move.seat.span


@pytest.mark.slow
@settings(max_examples=60, derandomize=True, deadline=None)
@given(boards(), GOALS, st.integers(0, 5))
def test_a_swarm_that_nobody_joins_or_leaves_comes_to_rest(board: Board, goal: Goal, epoch: int) -> None:
    moves = 0
    quiet = 0
    for minute in range(40):
        plan = plan_moves(board, goal, (epoch + minute) * EPOCH_S)
        board = done(board, plan, ready=True)
        moves += len(plan)
        quiet = 0 if plan else quiet + 1
    assert quiet >= 10
    assert moves <= 4 * len(board.seats)


@pytest.mark.slow
@settings(max_examples=100, derandomize=True, deadline=None)
@given(boards(), st.integers(0, 3))
def test_moves_close_holes_or_raise_what_can_be_served(board: Board, epoch: int) -> None:
    for move in plan_moves(board, GOAL, epoch * EPOCH_S):
        after = done(board, [move], ready=False)
        holes_before, holes_after = ((b.counts() == 0).sum() for b in (board, after))
        assert holes_after <= holes_before
        assert after.tokens_per_s >= 0.9 * board.tokens_per_s
        assert move.after_tokens_per_s == pytest.approx(after.tokens_per_s)
        board = after


def test_of_two_peers_that_could_fill_a_hole_exactly_one_moves() -> None:
    seats = tuple(Seat(name, Span(0, 4), 10.0) for name in ("a", "b", "c"))
    for minute in range(20):
        decisions = [review(Board(8, seats), name, GOAL, minute * EPOCH_S) for name in ("a", "b", "c")]
        assert sorted(d.action for d in decisions) == [Action.MOVE, Action.STAY, Action.STAY]
        assert next(d.span for d in decisions if d.action is Action.MOVE) == Span(4, 8)


def test_a_hole_that_somebody_is_about_to_fill_attracts_nobody() -> None:
    seats = (*(Seat(name, Span(0, 4), 10.0) for name in "abc"), Seat("d", Span(4, 8), 30.0, ready=False))
    assert plan_moves(Board(8, seats), GOAL, 0.0) == ()


def test_another_minute_may_choose_another_peer() -> None:
    seats = tuple(Seat(f"p{n}", Span(0, 4), 10.0) for n in range(6))
    movers = {plan_moves(Board(8, seats), GOAL, m * EPOCH_S)[0].seat.peer_id for m in range(20)}
    assert len(movers) > 2


def test_a_small_gain_moves_nobody() -> None:
    """Within two percent of the best possible nobody stirs, and beyond it somebody does."""
    even = tuple(Seat(f"p{n}", Span(4 * (n % 2), 4 * (n % 2) + 4), 10.0) for n in range(8))
    assert plan_moves(Board(8, even), GOAL, 0.0) == ()
    slightly = (*even[:-1], replace(even[-1], speed=9.5))
    assert plan_moves(Board(8, slightly), GOAL, 0.0) == ()
    badly = tuple(replace(seat, span=Span(0, 4)) if n in (1, 3) else seat for n, seat in enumerate(even))
    assert plan_moves(Board(8, badly), GOAL, 0.0) != ()


def test_live_sessions_and_loading_times_hold_a_peer_back() -> None:
    def swarm(**costs: float) -> Board:
        crowd = tuple(Seat(f"p{n}", Span(0, 4), 10.0, **costs) for n in range(6))  # type: ignore[arg-type]
        return Board(8, (*crowd, Seat("x", Span(4, 8), 10.0, pinned=True)))

    assert plan_moves(swarm(), GOAL, 0.0) != ()
    assert plan_moves(swarm(sessions=1000), GOAL, 0.0) == ()
    assert plan_moves(swarm(load_s=500.0), GOAL, 0.0) == ()


def test_layers_with_one_peer_get_another_where_two_are_wanted() -> None:
    seats = (*(Seat(name, Span(0, 4), 10.0) for name in "abc"), Seat("d", Span(4, 8), 30.0))
    board = Board(8, seats)
    assert plan_moves(board, GOAL, 0.0) == ()
    after = done(board, plan_moves(board, Goal(replicas=2), 0.0), ready=True)
    assert (after.counts() < 2).sum() < (board.counts() < 2).sum()
    assert after.tokens_per_s >= 0.9 * board.tokens_per_s


def test_layers_that_stay_together_are_not_divided() -> None:
    seats = tuple(Seat(name, Span(0, 4), 10.0) for name in "abc")
    (move,) = plan_moves(Board(8, seats, together=Span(3, 7)), GOAL, 0.0)
    assert not move.span.cuts(Span(3, 7))


def test_a_decision_gives_its_reason_and_numbers() -> None:
    seats = (*(Seat(name, Span(0, 4), 12.0) for name in "abc"), Seat("d", Span(4, 8), 12.0, pinned=True))
    decisions = [review(Board(8, seats), name, GOAL, 0.0) for name in "abcd"]
    (moved,) = [d for d in decisions if d.action is Action.MOVE]
    assert str(moved) == "moved 0:4 -> 2:6: weakest layer 4 at 3 tok/s, gain 100%"
    assert "another peer moves first" in str(decisions[0 if decisions[0] is not moved else 1])
    assert str(decisions[3]) == "stays at 4:8: pinned"


def test_a_swarm_with_a_hole_is_urgent_until_somebody_is_on_the_way() -> None:
    seats = (Seat("a", Span(0, 4), 10.0), Seat("b", Span(0, 4), 10.0))
    assert is_urgent(Board(8, seats), GOAL)
    assert not is_urgent(Board(8, (*seats, Seat("c", Span(4, 8), 20.0, ready=False))), GOAL)
    assert not is_urgent(Board(8, seats[:1]), GOAL)  # nobody can do anything about it


def test_reviews_are_spread_over_time() -> None:
    assert review_delay_s(0.0) == 15.0
    assert review_delay_s(1.0) == 45.0
    assert review_delay_s(1.0, hasty=True) == 3.0


def test_a_board_is_what_the_records_say() -> None:
    view = make_view(
        make_record("a", (0, 6), seconds_per_layer=0.125, pinned=True, sessions=2, load_s=3.0),
        make_record("b", (4, 12), seconds_per_layer=0.25, state="joining"),
        make_record("c", (0, 12), state="draining"),
        make_record("d", (0, 12), precision="nf4"),
    )
    board = Board.of(view, 12, precision="float32")
    assert [replace(seat, speed=round(seat.speed, 6)) for seat in board.seats] == [
        Seat("a", Span(0, 6), 8.0, pinned=True, sessions=2, load_s=3.0),
        Seat("b", Span(4, 12), 4.0, ready=False),
    ]
