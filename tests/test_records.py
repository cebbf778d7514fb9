"""Announcements: what encode writes decode reads, and nothing that a stranger sends gets further than decode."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from swarm.core.errors import ConfigError, PeerIncompatible
from swarm.routing.announcement import claims, decode, encode
from swarm.routing.records import (
    BUCKETS,
    MAX_LEASE_S,
    MAX_RECORD_BYTES,
    PeerRecord,
    PeerState,
    bucket_of,
    directory_key,
    keys_of,
    model_key,
)
from swarm.wire import record_gate
from tests.records import make_record

TEXT = st.text(st.characters(exclude_categories=("C", "Z")), max_size=20)
SECONDS = st.floats(0, 3600)
IDS = st.text("abcXYZ123", min_size=1, max_size=52)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXT | st.sampled_from((10**400, -1, 1e308)),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=8,
)


def outcome(body: bytes) -> str:
    """The text of the refusal, or nothing where the bytes are a record."""
    try:
        decode(body)
    except PeerIncompatible as exc:
        return str(exc)
    return ""


@st.composite
def records(draw: st.DrawFn) -> PeerRecord:
    start = draw(st.integers(0, 98))
    issued_at = draw(st.floats(0, 1e10))
    return make_record(
        draw(IDS),
        (start, draw(st.integers(start + 1, 99))),
        99,
        name=draw(TEXT),
        addresses=tuple(draw(st.lists(TEXT.filter(bool), max_size=4))),
        state=draw(st.sampled_from(PeerState)),
        seconds_per_layer=draw(SECONDS),
        prefill_seconds_per_layer=draw(SECONDS),
        queue_s=draw(SECONDS),
        free_tokens=draw(st.integers(0, 1 << 40)),
        links=draw(st.dictionaries(IDS, SECONDS, max_size=8)),
        issued_at=issued_at,
        expires_at=issued_at + draw(st.floats(0.001, 29.9)),
    )


@pytest.mark.slow
@settings(derandomize=True, deadline=None)
@given(records())
def test_decode_reverses_encode(record: PeerRecord) -> None:
    body = encode(record)
    assert len(body) <= MAX_RECORD_BYTES
    assert decode(body) == record
    assert encode(decode(body)) == body


@settings(max_examples=50, derandomize=True, deadline=None)
@given(st.binary(max_size=300) | JSON.map(lambda value: json.dumps(value).encode()))
def test_strange_bytes_are_incompatible_and_nothing_else(body: bytes) -> None:
    with pytest.raises(PeerIncompatible):
        decode(body)


@pytest.mark.slow
@settings(max_examples=200, derandomize=True, deadline=None)
@given(records(), st.data())
def test_mutated_bytes_are_read_or_refused(record: PeerRecord, data: st.DataObject) -> None:
    body = bytearray(encode(record))
    for _ in range(data.draw(st.integers(1, 4))):
        body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    assert "\n" not in outcome(bytes(body))


@pytest.mark.slow
@settings(max_examples=200, derandomize=True, deadline=None)
@given(records(), st.data())
def test_replaced_fields_are_read_or_refused(record: PeerRecord, data: st.DataObject) -> None:
    fields = json.loads(encode(record))
    fields[data.draw(st.sampled_from(sorted(fields)))] = data.draw(JSON)
    assert "\n" not in outcome(json.dumps(fields).encode())


def altered(**changes: Any) -> bytes:
    return json.dumps(json.loads(encode(make_record())) | changes).encode()


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        (b"", "EOF"),
        (b"[" * 4096, "recursion limit"),
        (b" " * (MAX_RECORD_BYTES + 1), "over the limit of 4096"),
        (altered(seconds_per_layer=float("nan")), "seconds_per_layer"),
        (altered(prefill_seconds_per_layer=-1.0), "prefill_seconds_per_layer"),
        (altered(queue_s=float("inf")), "queue_s"),
        (altered(free_tokens=10**30), "free_tokens"),
        (altered(free_tokens="12"), "free_tokens"),
        (altered(sessions=True), "sessions"),
        (altered(layers=5000), "layers"),
        (altered(start=4, end=4), "span 4:4 is not inside 12 layers"),
        (altered(end=13), "span 0:13 is not inside 12 layers"),
        (altered(expires_at=1031.0), "a lease lasts more than 0 and at most 30 s"),
        (altered(expires_at=1000.0), "a lease lasts more than 0 and at most 30 s"),
        (altered(name="\x1b[2Jgone"), "control characters"),
        (altered(peer_id="a b"), "peer_id"),
        (altered(state="king"), "state"),
        (altered(addresses=[""]), "addresses.0"),
        (altered(links={str(n): 0.1 for n in range(33)}), "links"),
        (altered(links={"a": -1}), "links.a"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_refusals_name_the_problem(body: bytes, problem: str) -> None:
    with pytest.raises(PeerIncompatible, match=problem):
        decode(body)


def test_claims_are_what_the_directory_checks() -> None:
    record = make_record("a")
    assert claims(encode(record)) == ("a", keys_of(record), record.issued_at, record.expires_at)
    with pytest.raises(PeerIncompatible):
        claims(b"{}")


def test_what_fits_an_announcement_fits_the_directory() -> None:
    assert record_gate.MAX_BODY_BYTES == MAX_RECORD_BYTES
    assert record_gate.MAX_LEASE_S == MAX_LEASE_S


def test_fields_of_later_versions_are_ignored() -> None:
    assert decode(altered(colour="blue")) == make_record()


def test_the_farthest_links_give_way_when_the_record_is_too_long() -> None:
    links = {f"{n:02}" + "x" * 100: float(n) for n in range(32)}
    addresses = ("/" + "a" * 200,) * 5
    kept = decode(encode(make_record(links=links, addresses=addresses))).links
    assert 0 < len(kept) < 32
    assert list(kept) == list(links)[: len(kept)]


def test_a_record_that_cannot_fit_is_a_setting_to_change() -> None:
    with pytest.raises(ConfigError, match="fewer public addresses"):
        encode(make_record(addresses=("/" + "a" * 255,) * 16, links={"a": 0.1}))


def test_a_record_cannot_be_changed() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        make_record().queue_s = 1.0


@settings(derandomize=True)
@given(IDS)
def test_a_peer_stands_in_one_bucket_of_its_model_and_of_the_directory(peer_id: str) -> None:
    record = make_record(peer_id)
    bucket = bucket_of(peer_id)
    assert 0 <= bucket < BUCKETS
    assert keys_of(record) == (model_key(record.model_uid, bucket), directory_key(bucket))
