"""The status report: rows in the order of layers, and whether the model can be run."""

from __future__ import annotations

import json
from dataclasses import asdict

from swarm.core.span import Span
from swarm.routing.happenings import happenings
from swarm.routing.status import summarise
from tests.records import make_record, make_view


def test_rows_stand_from_front_to_back_with_what_each_peer_announces() -> None:
    view = make_view(
        make_record("b", (4, 12), sessions=3, free_tokens=7, total_tokens=9, name="attic"),
        make_record("z", (0, 4), seconds_per_layer=0.01, model_name="demo"),
    )
    report = summarise(view)
    assert [row.peer_id for row in report.peers] == ["z", "b"]
    assert report.peers[0].tokens_per_s == 25.0
    attic = report.peers[1]
    assert (attic.name, attic.span, attic.sessions, attic.free_tokens, attic.total_tokens) == (
        "attic",
        Span(4, 12),
        3,
        7,
        9,
    )
    assert attic.tokens_per_s is None
    assert report.model_name == "demo"
    assert report.n_layers == len(report.layers) == 12


def test_a_model_without_holes_is_complete() -> None:
    report = summarise(make_view(make_record("a", (0, 12))))
    assert report.complete
    assert report.missing == ()
    assert report.weakest_layer == report.layers[0]


def test_holes_are_named() -> None:
    report = summarise(make_view(make_record("a", (2, 6)), make_record("b", (8, 12), state="draining")))
    assert not report.complete
    assert report.missing == (Span(0, 2), Span(6, 12))


def test_layers_that_only_different_precisions_cover_are_not_a_complete_model() -> None:
    report = summarise(make_view(make_record("a", (0, 6)), make_record("b", (6, 12), precision="int8")))
    assert not report.complete
    assert report.missing == ()


def test_unusable_peers_are_listed_with_the_reason() -> None:
    report = summarise(make_view(make_record("a", protocol=9, name="old")))
    assert [(row.name, row.reason) for row in report.rejected] == [
        ("old", "speaks protocol version 9, this node speaks 1")
    ]


def test_nobody_there_is_a_report_too_and_every_report_is_json() -> None:
    report = summarise(make_view())
    assert report.weakest_layer is None
    assert not report.complete
    for case in (report, summarise(make_view(make_record("a", seconds_per_layer=1e-300)))):
        assert json.loads(json.dumps(asdict(case), allow_nan=False))["peers"] is not None


def test_between_two_looks_every_deed_of_a_peer_is_told_once() -> None:
    before = summarise(
        make_view(
            make_record("stays", (0, 4)),
            make_record("moves", (0, 4), name="hare"),
            make_record("drains", (4, 8)),
            make_record("gone", (8, 12)),
        )
    )
    after = summarise(
        make_view(
            make_record("stays", (0, 4)),
            make_record("moves", (8, 12), name="hare", state="joining"),
            make_record("drains", (4, 8), state="draining"),
            make_record("comes", (4, 8)),
        )
    )
    assert sorted(map(str, happenings(before, after))) == [
        "comes has joined at 4:8",
        "drains is leaving layers 4:8",
        "gone has left layers 8:12",
        "hare moves 0:4 -> 8:12",
    ]
    assert list(happenings(after, after)) == []
