"""Circuit breakers: back off longer and longer, let one try through, forgive."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swarm.routing.breaker import CircuitBreaker


def test_an_unknown_peer_may_be_used() -> None:
    breaker = CircuitBreaker()
    assert not breaker.is_open("a", 0.0)
    assert breaker.admit("a", 0.0)
    assert breaker.open_peers(0.0) == frozenset()


def test_a_failure_keeps_others_away_for_a_while() -> None:
    breaker = CircuitBreaker()
    breaker.record_failure("a", 100.0)
    assert breaker.is_open("a", 100.9)
    assert not breaker.admit("a", 100.9)
    assert breaker.open_peers(100.9) == {"a"}
    assert not breaker.is_open("a", 101.0)
    assert breaker.open_peers(101.0) == frozenset()


def test_repeated_failures_double_the_wait_up_to_a_minute() -> None:
    breaker, now, waits = CircuitBreaker(), 0.0, []
    for _ in range(9):
        breaker.record_failure("a", now)
        wait = next(s for s in (1, 2, 4, 8, 16, 32, 60, 120) if not breaker.is_open("a", now + s))
        waits.append(wait)
        now += wait
    assert waits == [1, 2, 4, 8, 16, 32, 60, 60, 60]


def test_many_reports_of_one_failure_count_once() -> None:
    breaker = CircuitBreaker()
    for report in range(10):
        breaker.record_failure("a", report / 100)
    assert not breaker.is_open("a", 1.0)


def test_half_open_lets_one_caller_try() -> None:
    breaker = CircuitBreaker(trial_s=5.0)
    breaker.record_failure("a", 0.0)
    assert breaker.admit("a", 1.0)
    assert not breaker.admit("a", 1.0)
    assert breaker.open_peers(1.0) == {"a"}
    assert breaker.admit("a", 6.0), "a try that never reported must not block the peer for good"


def test_a_successful_try_closes_the_circuit_for_all() -> None:
    breaker = CircuitBreaker()
    breaker.record_failure("a", 0.0)
    assert breaker.admit("a", 1.0)
    breaker.record_success("a")
    assert breaker.admit("a", 1.0)
    breaker.record_failure("a", 2.0)
    assert not breaker.is_open("a", 3.0)


def test_a_failed_try_opens_it_for_twice_as_long() -> None:
    breaker = CircuitBreaker()
    breaker.record_failure("a", 0.0)
    assert breaker.admit("a", 1.0)
    breaker.record_failure("a", 1.5)
    assert breaker.is_open("a", 3.4)
    assert not breaker.is_open("a", 3.5)


def test_old_failures_are_forgiven() -> None:
    breaker = CircuitBreaker()
    breaker.record_failure("a", 0.0)
    breaker.record_failure("a", 1.0)
    breaker.record_failure("a", 3.0 + 60.0)
    assert not breaker.is_open("a", 3.0 + 61.0)


@pytest.mark.parametrize("other", ["b", ""])
def test_peers_fail_on_their_own(other: str) -> None:
    breaker = CircuitBreaker()
    breaker.record_failure("a", 0.0)
    assert not breaker.is_open(other, 0.5)


@settings(derandomize=True, deadline=None)
@given(st.lists(st.tuples(st.sampled_from("fsa"), st.sampled_from("xy"), st.floats(0, 50)), max_size=30))
def test_no_history_keeps_a_peer_away_for_more_than_the_longest_time(
    history: list[tuple[str, str, float]],
) -> None:
    breaker, now = CircuitBreaker(), 0.0
    for act, peer, pause in history:
        now += pause
        if act == "f":
            breaker.record_failure(peer, now)
        elif act == "s":
            breaker.record_success(peer)
        else:
            was_open = breaker.is_open(peer, now)
            assert breaker.admit(peer, now) is not was_open
    assert breaker.open_peers(now) == {peer for peer in "xy" if breaker.is_open(peer, now)}
    assert breaker.open_peers(now + 60.0) == frozenset()
