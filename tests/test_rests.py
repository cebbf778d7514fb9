"""Busy peers are left alone as long as they ask for, within reason."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarm.core.errors import LONGEST_RETRY_S, PeerBusy
from swarm.routing.rests import LEAST_S, Rests
from swarm.wire.control_messages import Failed
from swarm.wire.failures import error_of


def test_a_busy_peer_rests_for_as_long_as_it_said_and_no_longer() -> None:
    rests = Rests()
    assert rests.begin("a", 7.0, 100.0) == 7.0
    assert rests.resting(106.9) == {"a"}
    assert rests.resting(107.0) == frozenset()


def test_of_two_wishes_the_one_that_ends_later_counts() -> None:
    rests = Rests()
    rests.begin("a", 7.0, 100.0)
    assert rests.begin("a", 1.0, 101.0) == 6.0
    assert rests.resting(106.9) == {"a"}


def test_being_busy_again_and_again_adds_nothing_up() -> None:
    rests, now = Rests(), 0.0
    for _ in range(20):
        assert rests.begin("a", 2.0, now) == 2.0
        now += 2.0
        assert rests.resting(now) == frozenset()


@given(st.floats(-1e300, 1e300))
def test_no_wish_lasts_for_more_than_a_minute_or_for_nothing(wait_s: float) -> None:
    rests = Rests()
    assert LEAST_S <= rests.begin("a", wait_s, 0.0) <= LONGEST_RETRY_S
    assert rests.resting(LEAST_S / 2) == {"a"}
    assert rests.resting(LONGEST_RETRY_S) == frozenset()


@pytest.mark.parametrize("said", [61.0, 1e9, 1e300])
def test_what_a_stranger_says_is_clamped_where_it_enters(said: float) -> None:
    failed = Failed(request=1, kind="busy", message="no room", retry_after_s=said)
    error = error_of(failed.kind, failed.message, "a", failed.retry_after_s)
    assert isinstance(error, PeerBusy)
    assert error.retry_after_s == LONGEST_RETRY_S
