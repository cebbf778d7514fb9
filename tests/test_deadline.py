"""How long a step may take."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from swarm.client.deadline import LEAST_S, MARGIN, UNKNOWN_SHARE, StepDeadline

seconds = st.floats(0.0001, 200)
observations = st.lists(st.tuples(st.integers(1, 5000), seconds), max_size=12)


@given(seen=observations, tokens=st.integers(1, 10_000))
def test_hops_are_asked_after_some_time_and_given_up_later(
    seen: list[tuple[int, float]], tokens: int
) -> None:
    deadline = StepDeadline(120.0)
    for count, took_s in seen:
        deadline.observe(count, took_s)
    assert LEAST_S <= deadline.allowed_s(tokens) <= 120.0 * UNKNOWN_SHARE
    assert deadline.allowed_s(tokens) <= deadline.patience_s(tokens)
    assert deadline.patience_s(tokens) >= 120.0


def test_while_nothing_is_known_the_configured_time_holds() -> None:
    deadline = StepDeadline(40.0)
    assert (deadline.allowed_s(1), deadline.allowed_s(500)) == (10.0, 10.0)
    deadline.observe(500, 1.0)
    assert deadline.allowed_s(1) == 10.0, "a prompt says nothing about single tokens"


@given(took_s=seconds)
def test_steady_steps_are_allowed_a_multiple_of_what_they_take(took_s: float) -> None:
    deadline = StepDeadline(1e6)
    for _ in range(50):
        deadline.observe(1, took_s)
    assert abs(deadline.allowed_s(1) - max(LEAST_S, MARGIN * took_s)) < 1e-6


def test_long_prompts_are_given_time_by_their_length() -> None:
    deadline = StepDeadline(120.0)
    deadline.observe(100, 10.0)
    assert deadline.patience_s(10_000) == MARGIN * 1000.0


def test_one_slow_step_does_not_decide() -> None:
    deadline = StepDeadline(1e6)
    for _ in range(20):
        deadline.observe(1, 1.0)
    deadline.observe(1, 100.0)
    assert deadline.allowed_s(1) < MARGIN * 25
