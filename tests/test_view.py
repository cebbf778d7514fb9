"""The view: freshest record per peer, whatever the order; what is served and what is missing."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swarm.core.span import Span
from swarm.routing.records import PeerRecord, PeerState
from swarm.routing.view import STAYING, SwarmView, spans_of
from tests.records import MODEL, NOW, make_record, make_view


@st.composite
def records(draw: st.DrawFn) -> PeerRecord:
    start = draw(st.integers(0, 5))
    return make_record(
        draw(st.sampled_from("abcd")),
        (start, draw(st.integers(start + 1, 6))),
        draw(st.sampled_from((6, 6, 6, 8))),
        issued_at=NOW - draw(st.sampled_from((0, 1, 29, 30, 31))),
        state=draw(st.sampled_from(PeerState)),
        protocol=draw(st.sampled_from((1, 1, 1, 2))),
        model_uid=draw(st.sampled_from((MODEL, MODEL, MODEL, "another-model"))),
        free_tokens=draw(st.integers(0, 2)),
    )


@pytest.mark.slow
@settings(derandomize=True, deadline=None)
@given(st.lists(records(), max_size=8), st.randoms(use_true_random=False))
def test_the_order_of_arrival_never_matters(found: list[PeerRecord], rng: object) -> None:
    shuffled = list(found)
    rng.shuffle(shuffled)  # type: ignore[attr-defined]
    assert make_view(*shuffled, *found) == make_view(*found)


@pytest.mark.slow
@settings(derandomize=True, deadline=None)
@given(st.lists(records(), max_size=8))
def test_what_is_in_the_view_is_usable_and_what_is_missing_is_not(found: list[PeerRecord]) -> None:
    view = make_view(*found)
    assert len(view.by_id) == len(view.peers)
    for record in view.peers:
        assert record.protocol == 1
        assert record.model_uid == MODEL
        assert record.expires_at > NOW
        assert record.state is not PeerState.LEFT
        assert record.layers == view.n_layers
        assert record.issued_at == max(r.issued_at for r in found if r.peer_id == record.peer_id)
    missing = {layer for span in view.missing_layers() for layer in range(span.start, span.end)}
    online = [r for r in view.peers if r.state is PeerState.ONLINE]
    assert missing == {n for n in range(view.n_layers) if not any(n in r.span for r in online)}


def test_a_newer_record_replaces_an_older_one() -> None:
    old, new = make_record("a", (0, 4)), make_record("a", (4, 8), issued_at=NOW + 1)
    assert make_view(new, old).peers == (new,)


@pytest.mark.parametrize(
    "gone",
    [
        make_record("a", issued_at=NOW + 1, state="left"),
        make_record("a", issued_at=NOW + 1, model_uid="another-model"),
        make_record("a", issued_at=NOW + 1, expires_at=NOW + 2),
    ],
    ids=["left", "moved", "expired"],
)
def test_older_records_do_not_bring_a_peer_back(gone: PeerRecord) -> None:
    assert make_view(make_record("a"), gone, now=NOW + 3).peers == ()


def test_leaving_wins_over_a_record_of_the_same_moment() -> None:
    assert make_view(make_record("a", state="left"), make_record("a")).peers == ()


def test_peers_of_another_protocol_are_set_aside_with_the_reason() -> None:
    view = make_view(make_record("a"), make_record("b", protocol=2))
    assert [r.peer_id for r in view.peers] == ["a"]
    assert [(r.peer_id, why) for r, why in view.rejected] == [
        ("b", "speaks protocol version 2, this node speaks 1")
    ]


def test_a_lease_does_not_begin_in_the_future() -> None:
    early = make_record("early", issued_at=NOW + 10), make_record("hurried", issued_at=NOW + 3600)
    view = make_view(*early)
    assert [r.peer_id for r in view.peers] == ["early"]
    assert [(r.peer_id, why) for r, why in view.rejected] == [
        ("hurried", "has a clock 3600 s ahead of this one")
    ]


def test_the_majority_says_how_many_layers_there_are() -> None:
    view = make_view(
        make_record("a", layers=12), make_record("b", layers=12), make_record("liar", layers=4000)
    )
    assert view.n_layers == 12
    assert [(r.peer_id, why) for r, why in view.rejected] == [
        ("liar", "says that the model has 4000 layers, most peers say 12")
    ]


def test_an_empty_view_knows_no_depth_but_can_be_asked_about_one() -> None:
    view = SwarmView.of([], now=NOW, model_uid=MODEL, protocol=1)
    assert view.n_layers == 0
    assert view.weakest_layer() is None
    assert view.missing_layers() == []
    assert view.missing_layers(3) == [Span(0, 3)]
    assert view.get("a") is None


def test_coverage_counts_peers_and_adds_throughput() -> None:
    view = make_view(
        make_record("a", (0, 2), 4, seconds_per_layer=0.01),
        make_record("b", (1, 4), 4, seconds_per_layer=0.1),
        make_record("c", (3, 4), 4, seconds_per_layer=0.5, state="joining"),
    )
    assert [c.peers for c in view.coverage()] == [1, 2, 1, 1]
    assert [c.tokens_per_s for c in view.coverage()] == pytest.approx([50, 50 + 10 / 3, 10 / 3, 10 / 3])
    assert [c.peers for c in view.coverage(states=STAYING)] == [1, 2, 1, 2]
    assert view.weakest_layer() == view.coverage()[2]


def test_an_unmeasured_peer_counts_as_the_typical_one() -> None:
    new = make_record("new", (0, 1), 4)
    assert make_view(new).tokens_per_s(new) == 1.0
    measured = make_record("old", (0, 1), 4, seconds_per_layer=0.25)
    assert make_view(new, measured).tokens_per_s(new) == 4.0


def test_a_boast_of_endless_speed_stays_finite() -> None:
    fast = make_record("fast", seconds_per_layer=5e-324)
    assert make_view(fast).tokens_per_s(fast) == 1e9


def test_precisions_are_listed_once_and_covered_apart() -> None:
    view = make_view(
        make_record("a", (0, 2), 4, precision="nf4"), make_record("b", (2, 4), 4), make_record("c", (2, 4), 4)
    )
    assert view.precisions() == ("float32", "nf4")
    assert view.missing_layers() == []
    assert view.missing_layers(precision="nf4") == [Span(2, 4)]


@settings(derandomize=True)
@given(st.sets(st.integers(0, 20)))
def test_spans_of_layers_are_maximal_and_complete(layers: set[int]) -> None:
    spans = spans_of(sorted(layers))
    assert [n for span in spans for n in range(span.start, span.end)] == sorted(layers)
    assert all(left.end < right.start for left, right in pairwise(spans))
