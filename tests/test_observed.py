"""Stragglers: seen after a few steps, not after one, forgiven when they recover, and trusted less when they relapse."""

from __future__ import annotations

from itertools import pairwise

import pytest

from swarm.routing.observed import (
    FIRST_FADE_S,
    HOLD_S,
    LEAST_EXCESS_S,
    LONGEST_FADE_S,
    ObservedPaces,
)
from swarm.routing.records import PeerRecord
from tests.records import make_record

RECORD = make_record("a", (0, 4), seconds_per_layer=0.002)
USUAL_S = 4 * 0.002


def seen(*steps: float, record: PeerRecord = RECORD, tokens: int = 1, begin: float = 0.0) -> ObservedPaces:
    """What is known after steps that took so many seconds, ten a second."""
    paces = ObservedPaces()
    for number, took_s in enumerate(steps):
        paces.observe(record, 4, tokens, took_s, begin + number / 10)
    return paces


def relapse(paces: ObservedPaces, now: float) -> None:
    for number in range(3):
        paces.observe(RECORD, 4, 1, 10 * USUAL_S, now + number / 10)


@pytest.mark.parametrize(
    ("steps", "is_slow"),
    [
        ((), False),
        ((USUAL_S,) * 9, False),
        ((1.8 * USUAL_S,) * 99, False),
        ((3 * USUAL_S,) * 9, True),
        ((100 * USUAL_S,), False),
        ((USUAL_S, 100 * USUAL_S, USUAL_S, USUAL_S, USUAL_S, USUAL_S, USUAL_S), False),
        ((100 * USUAL_S,) * 3, True),
        ((100 * USUAL_S,) * 3 + (USUAL_S,) * 20, False),
        ((USUAL_S, 20 * USUAL_S) * 8, True),
    ],
)
def test_who_is_slow_for_a_few_steps_is_a_straggler(steps: tuple[float, ...], is_slow: bool) -> None:
    assert seen(*steps).is_slow(RECORD, len(steps) / 10) is is_slow


def test_what_is_expected_of_a_straggler_comes_near_to_what_was_seen_and_fades_to_what_it_announces() -> None:
    paces = seen(*[20 * USUAL_S] * 30)
    expected = [
        paces.stragglers({"a": RECORD}, now)["a"]
        for now in (2.9, 2.9 + HOLD_S + FIRST_FADE_S / 2, HOLD_S + 2 + FIRST_FADE_S)
    ]
    assert expected[0] == pytest.approx(0.04, rel=0.05)
    assert expected[1] == pytest.approx(0.021, rel=0.05)
    assert expected[0] > expected[1] > expected[2] > 0.002
    assert paces.stragglers({"a": RECORD}, 3 + HOLD_S + FIRST_FADE_S) == {}


def test_a_relapse_is_remembered_twice_as_long_up_to_a_limit() -> None:
    paces, now, waits = ObservedPaces(), 0.0, []
    for _ in range(6):
        relapse(paces, now)
        now += 0.2
        wait = next(s for s in range(200) if not paces.is_slow(RECORD, now + s))
        waits.append(wait)
        now += wait
    assert waits[0] <= HOLD_S + FIRST_FADE_S
    assert all(later > 1.4 * earlier for earlier, later in pairwise(waits[:4]))
    assert waits[3] * 0.9 < max(waits[4:]) <= HOLD_S + LONGEST_FADE_S


def test_a_peer_whose_records_follow_its_slowness_has_not_relapsed() -> None:
    paces = ObservedPaces()
    for number in range(20):
        announced_s = 0.002 if number < 3 else 0.008
        record = make_record("a", (0, 4), seconds_per_layer=announced_s)
        paces.observe(record, 4, 1, 10 * USUAL_S, number / 10)
    assert paces.is_slow(RECORD, 2.0)
    assert not paces.is_slow(RECORD, 2.0 + HOLD_S + FIRST_FADE_S)


def test_who_did_well_for_long_enough_starts_afresh() -> None:
    paces = ObservedPaces()
    relapse(paces, 0.0)
    for number in range(400):
        paces.observe(RECORD, 4, 1, USUAL_S, 10 + number / 10)
    relapse(paces, 60.0)
    assert paces.is_slow(RECORD, 60.2)
    assert not paces.is_slow(RECORD, 60.2 + HOLD_S + FIRST_FADE_S)


def test_queueing_counts_beyond_what_the_peer_announces() -> None:
    busy = make_record("a", (0, 4), seconds_per_layer=0.002, queue_s=0.5)
    assert not seen(*[0.5 + USUAL_S] * 9, record=busy).is_slow(busy, 1.0)
    assert seen(*[0.5 + USUAL_S] * 9).is_slow(RECORD, 1.0)


def test_a_prompt_shows_that_a_peer_is_slow_but_never_that_it_is_fast() -> None:
    assert seen(*[100 * 10 * USUAL_S] * 3, tokens=100).is_slow(RECORD, 0.3)
    paces = seen(*[10 * USUAL_S] * 9)
    for _ in range(50):
        paces.observe(RECORD, 4, 100, 10 * USUAL_S, 0.9)
    assert paces.is_slow(RECORD, 0.9)


def test_what_is_too_little_to_matter_makes_nobody_a_straggler() -> None:
    quick = make_record("a", (0, 4), seconds_per_layer=1e-5)
    assert not seen(*[0.9 * LEAST_EXCESS_S] * 50, record=quick).is_slow(quick, 5.0)
    assert seen(*[2 * LEAST_EXCESS_S] * 50, record=quick).is_slow(quick, 5.0)


def test_a_peer_that_says_itself_that_it_is_slow_is_no_straggler_and_one_that_says_nothing_is_measured() -> (
    None
):
    honest = make_record("a", (0, 4), seconds_per_layer=0.02)
    paces = seen(*[10 * USUAL_S] * 9)
    assert paces.stragglers({"a": honest}, 0.9) == {}
    silent = make_record("a", (0, 4))
    found = seen(*[10 * USUAL_S] * 9, record=silent).stragglers({"a": silent}, 0.9)
    assert found["a"] == pytest.approx(0.02, rel=0.05)


def test_peers_that_are_gone_are_forgotten() -> None:
    paces = seen(*[10 * USUAL_S] * 9)
    assert paces.stragglers({}, 0.9) == {}
    paces.retain({})
    assert not paces.is_slow(RECORD, 0.9)
