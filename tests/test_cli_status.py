"""`swarm status`: from records to models, maps and JSON."""

from __future__ import annotations

import json
from typing import Any

import pytest
from rich.console import Console

from swarm.cli.status_table import layer_map, render
from swarm.client.model_reports import reports_of
from swarm.core.errors import SwarmUnavailable
from swarm.core.span import Span
from swarm.routing.status import StatusReport, as_json
from tests.records import NOW, make_record


def shown(*reports: StatusReport) -> str:
    console = Console(width=160, color_system=None, highlight=False)
    with console.capture() as capture:
        console.print(render(reports, console.width))
    return capture.get()


def test_without_a_model_every_model_is_reported_once_by_name() -> None:
    records = [
        make_record("a", model_uid="uid-of-two", model_name="two"),
        make_record("b", model_uid="uid-of-one", model_name="one"),
        make_record("c", model_uid="uid-of-one", model_name="another name of one"),
    ]
    reports = reports_of(records, NOW, None)
    assert [report.model_uid for report in reports] == ["uid-of-one", "uid-of-two"]


@pytest.mark.parametrize("wanted", ["two", "uid-of-two", "uid-of-t"])
def test_a_model_is_found_by_name_or_by_the_beginning_of_its_uid(wanted: str) -> None:
    records = [
        make_record("a", model_uid="uid-of-two", model_name="two"),
        make_record("b", model_uid="uid-of-one"),
    ]
    assert [report.model_uid for report in reports_of(records, NOW, wanted)] == ["uid-of-two"]


def test_a_model_that_nobody_serves_is_an_error_that_names_those_served() -> None:
    records = [make_record("a", model_name="two")]
    with pytest.raises(SwarmUnavailable, match="nobody serves three in this swarm; it serves two"):
        reports_of(records, NOW, "three")


@pytest.mark.parametrize("fields", [{"issued_at": NOW - 60}, {"state": "left"}])
def test_peers_that_are_gone_do_not_count(fields: dict[str, Any]) -> None:
    with pytest.raises(SwarmUnavailable, match="this swarm serves no model"):
        reports_of([make_record("a", **fields)], NOW, None)


def test_the_map_has_a_column_per_layer() -> None:
    assert layer_map(Span(2, 5), 8, columns=48) == "··███···"


def test_the_map_of_a_deep_model_is_as_wide_as_allowed_and_shows_every_peer() -> None:
    drawn = layer_map(Span(79, 80), 80, columns=10)
    assert drawn == "·········█"


def test_the_table_shows_peers_states_and_the_weakest_layer() -> None:
    records = [
        make_record("peer-one", (0, 4), 8, model_name="demo", name="ada", seconds_per_layer=0.01),
        make_record(
            "peer-two", (4, 8), 8, model_name="demo", name="ben", seconds_per_layer=0.02, state="draining"
        ),
        make_record("peer-six", (2, 8), 8, model_name="demo", seconds_per_layer=0.05),
    ]
    out = shown(*reports_of(records, NOW, "demo"))
    assert "ada (er-one)" in out
    assert "████····" in out
    assert "draining" in out
    assert "1.0k/1.0k" in out
    assert "complete; weakest layer 4: 1 peer, 3 tokens/s" in out


def test_missing_layers_are_named() -> None:
    out = shown(*reports_of([make_record("a", (2, 5), 8)], NOW, None))
    assert "incomplete: nobody serves layers 0:2, 5:8" in out


def test_a_peer_of_another_protocol_is_shown_with_the_reason() -> None:
    records = [make_record("a", (0, 8), 8), make_record("b", (0, 8), 8, protocol=7)]
    assert "not used: ...b: speaks protocol version 7" in shown(*reports_of(records, NOW, None))


def test_a_name_is_not_read_as_markup() -> None:
    out = shown(*reports_of([make_record("a", (0, 8), 8, name="[red]x")], NOW, None))
    assert "[red]x (a)" in out


def test_json_has_spans_as_pairs() -> None:
    records = [make_record("a", (2, 5), 8, model_name="demo")]
    data = json.loads(json.dumps(as_json(reports_of(records, NOW, None))))
    [model] = data["models"]
    assert model["missing"] == [[0, 2], [5, 8]]
    assert model["peers"][0] | {"span": [2, 5], "state": "online", "free_tokens": 1000} == model["peers"][0]
    assert model["weakest_layer"]["layer"] == 0
