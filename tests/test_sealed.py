"""Sealed connections: what one end writes the other reads, and nobody in between changes anything unnoticed."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarm.wire.frames import PIECE_BYTES
from swarm.wire.sealed import KEY_BYTES, SealedConnection

KEY = bytes(range(KEY_BYTES))


class Wire(asyncio.Transport):
    """Keeps what is written to it."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[bytes] = []
        self.reading = True

    def write(self, data: Any) -> None:
        self.records.append(bytes(data))

    def is_closing(self) -> bool:
        return False

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True


class Reader:
    """Keeps what comes out of a connection."""

    def __init__(self) -> None:
        self.contents: list[bytes] = []
        self.complaints: list[str] = []

    def received(self, data: bytes) -> None:
        self.contents.append(data)

    def malformed(self, reason: str) -> None:
        self.complaints.append(reason)

    def eof_received(self) -> bool | None:
        return None

    def connection_lost(self, exc: Exception | None) -> None:
        """Nothing to do."""

    def pause_writing(self) -> None:
        """Nothing to do."""

    def resume_writing(self) -> None:
        """Nothing to do."""


def written(*contents: bytes, key: bytes = KEY, dialled: bool = True) -> list[bytes]:
    """The records in which one end sends these contents."""
    wire, connection = Wire(), SealedConnection(key, dialled=dialled)
    connection.connection_made(wire)
    for content in contents:
        connection.write(content)
    return wire.records


def reader_of(data: list[bytes], *, dialled: bool = False) -> Reader:
    """Who reads at the other end, after these bytes have come."""
    reader, connection = Reader(), SealedConnection(KEY, dialled=dialled)
    connection.connection_made(Wire())
    connection.attach(reader)
    for part in data:
        connection.data_received(part)
    return reader


@pytest.mark.parametrize("dialled", [True, False])
def test_both_directions_carry_what_is_written(dialled: bool) -> None:
    contents = [b"a", bytes(PIECE_BYTES), b"", b"last"]
    reader = reader_of(written(*contents, dialled=dialled), dialled=not dialled)
    assert reader.contents == contents
    assert reader.complaints == []


@given(st.lists(st.binary(max_size=40), max_size=6), st.data())
def test_records_may_come_in_any_pieces(contents: list[bytes], data: st.DataObject) -> None:
    stream = b"".join(written(*contents))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=8)))
    pieces = [stream[a:b] for a, b in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
    assert reader_of(pieces).contents == contents


@given(st.integers(0, 10**6), st.integers(1, 255))
def test_a_changed_byte_is_noticed(where: int, by: int) -> None:
    stream = bytearray(b"".join(written(b"first", b"second")))
    where %= len(stream)
    stream[where] ^= by
    reader = reader_of([bytes(stream)])
    assert reader.contents == [b"first", b"second"][: len(reader.contents)]
    assert len(reader.contents) < 2


@pytest.mark.parametrize("order", [[1], [0, 0], [1, 0], [0, 2]])
def test_records_that_are_missing_repeated_or_exchanged_are_noticed(order: list[int]) -> None:
    records = written(b"0", b"1", b"2")
    reader = reader_of([records[index] for index in order])
    assert reader.complaints
    assert reader.contents == [b"0"] * (order[0] == 0)


def test_what_one_end_wrote_cannot_be_sent_back_to_it() -> None:
    assert reader_of(written(b"mine", dialled=True), dialled=True).complaints


def test_another_key_opens_nothing() -> None:
    assert reader_of(written(b"secret", key=bytes(KEY_BYTES))).complaints


@pytest.mark.parametrize("size", [0, 15, PIECE_BYTES + 17, 2**32 - 1])
def test_a_record_of_an_impossible_size_is_refused_before_it_has_come(size: int) -> None:
    assert reader_of([size.to_bytes(4, "big")]).complaints == [f"a record of {size} bytes"]


def test_nothing_is_read_before_somebody_listens() -> None:
    wire, reader, connection = Wire(), Reader(), SealedConnection(KEY, dialled=False)
    connection.connection_made(wire)
    before = wire.reading
    connection.data_received(b"".join(written(b"early")))
    connection.attach(reader)
    assert (before, wire.reading) == (False, True)
    assert reader.contents == [b"early"]
