"""A cache that is nearly full costs, the more the nearer it is to what the session needs."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarm.core.span import Span
from swarm.routing.chain import ChainRequest, Hop, find_chain, price
from swarm.routing.latency import LatencyTable
from swarm.routing.pressure import pressure_s
from tests.records import make_record, make_view

WHOLE = Span(0, 12)
REQUEST = ChainRequest("client", "client", LatencyTable(default_s=0.0), tokens=100)


def taken(busy_tokens: int, dearer: float = 1.2) -> str:
    """Who gets a session of 100 tokens: a cheap peer with `busy_tokens` of 1,000 taken, or a dearer one with 10,000."""
    filling = make_record("filling", (0, 12), seconds_per_layer=0.01, free_tokens=1000 - busy_tokens)
    empty = make_record("empty", (0, 12), seconds_per_layer=0.01 * dearer, free_tokens=10_000)
    return find_chain(make_view(filling, empty), WHOLE, REQUEST).hops[0].peer_id


def test_a_dearer_peer_is_taken_before_the_cheap_one_is_full() -> None:
    chosen = [taken(busy) for busy in range(0, 1000, 50)]
    assert chosen[0] == "filling"
    assert chosen[-1] == "empty", "there is room for the session, but nothing behind it"
    assert chosen == sorted(chosen, reverse=True), "once it costs too much it stays so"


def test_who_has_the_only_room_is_used_to_the_end() -> None:
    last = make_record("last", (0, 12), seconds_per_layer=0.01, free_tokens=100)
    assert find_chain(make_view(last), WHOLE, REQUEST).cost_s == pytest.approx(0.24)


def test_a_running_session_pays_nothing_for_the_room_that_it_has() -> None:
    record = make_record("a", (0, 12), seconds_per_layer=0.01, free_tokens=1)
    assert price(Hop("a", WHOLE), record, REQUEST) == pytest.approx(0.12)


def test_where_much_is_free_it_costs_next_to_nothing() -> None:
    record = make_record("a", (0, 12), seconds_per_layer=0.01, free_tokens=1000)
    assert find_chain(make_view(record), WHOLE, replace(REQUEST, tokens=200)).cost_s < 0.12 * 1.01


@given(st.integers(0, 10**6), st.integers(0, 10**6), st.integers(1, 10**6))
def test_less_room_never_costs_less(free: int, more: int, tokens: int) -> None:
    fuller, emptier = (make_record(free_tokens=n, seconds_per_layer=0.01) for n in (free, free + more))
    assert (
        0
        <= pressure_s(emptier, 0.01, tokens)
        <= pressure_s(fuller, 0.01, tokens)
        <= 0.01 * len(fuller.span) + 1e-12
    )
