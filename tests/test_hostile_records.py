"""Whatever readable records strangers publish, every decision still comes out, and in the promised form."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import asdict

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swarm.core.errors import SwarmUnavailable
from swarm.core.span import Span
from swarm.routing.chain import ChainRequest, find_chain
from swarm.routing.latency import LatencyTable
from swarm.routing.records import PeerRecord, PeerState
from swarm.routing.status import summarise
from tests.records import NOW, choose_span, make_record, make_view

N_LAYERS = 6
EXTREME_SECONDS = st.sampled_from((0.0, -0.0, 5e-324, 1e-300, 0.01, 3600.0))
EXTREME_COUNTS = st.sampled_from((0, 1, 1 << 40))


@st.composite
def hostile_records(draw: st.DrawFn) -> PeerRecord:
    layers = draw(st.sampled_from((N_LAYERS, N_LAYERS, N_LAYERS, 1, 300)))
    start = draw(st.sampled_from((0, 0, layers // 2, layers - 1)))
    return make_record(
        draw(st.sampled_from(("a", "b", "c", "client"))),
        (start, draw(st.sampled_from((layers, start + 1)))),
        layers,
        name=draw(st.sampled_from(("", "[red]x[/red]", "名" * 64))),
        state=draw(st.sampled_from(PeerState)),
        precision=draw(st.sampled_from(("float32", "", "x" * 32))),
        seconds_per_layer=draw(EXTREME_SECONDS),
        queue_s=draw(EXTREME_SECONDS),
        sessions=draw(EXTREME_COUNTS),
        free_tokens=draw(EXTREME_COUNTS),
        total_tokens=draw(EXTREME_COUNTS),
        links=draw(
            st.dictionaries(st.sampled_from(("a", "b", "client", "elsewhere")), EXTREME_SECONDS, max_size=3)
        ),
        issued_at=draw(st.sampled_from((NOW, NOW, NOW, 0.0, 1e12, NOW + 20))),
    )


@st.composite
def hostile_swarms(draw: st.DrawFn) -> list[PeerRecord]:
    return draw(st.lists(hostile_records(), max_size=6))


@pytest.mark.slow
@settings(max_examples=100, derandomize=True, deadline=None)
@given(hostile_swarms(), st.integers(1, 1 << 32), st.integers(1, 5000))
def test_every_decision_survives_hostile_records(
    records: list[PeerRecord], tokens: int, capacity: int
) -> None:
    view = make_view(*records)
    links = LatencyTable()
    links.publish(records)
    json.dumps(asdict(summarise(view)), allow_nan=False)
    assert Span(0, N_LAYERS).covers(choose_span(view, N_LAYERS, capacity))
    request = ChainRequest("client", "client", links, tokens=tokens)
    with suppress(SwarmUnavailable):
        chain = find_chain(view, Span(0, N_LAYERS), request)
        assert [n for hop in chain.hops for n in range(hop.span.start, hop.span.end)] == list(range(N_LAYERS))
        assert 0 <= chain.cost_s < float("inf")
