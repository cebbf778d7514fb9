"""Frames: what is encoded comes out again however it is cut up, and nothing else does."""

from __future__ import annotations

import struct
import tracemalloc

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarm.core.errors import PeerIncompatible, RequestError
from swarm.wire.control_messages import Close, NextHop, Relink
from swarm.wire.frames import (
    MAX_HEADER_BYTES,
    MAX_PAYLOAD_BYTES,
    Frame,
    FrameDecoder,
    encode,
    encode_head,
)
from swarm.wire.message import Message
from swarm.wire.messages import Hello, Ping, Shortcut
from swarm.wire.step_messages import HopTiming, Output, StepFailed, StepMessage
from tests.wire_nodes import SESSION, float_meta

BULK = 300_000  # bytes: more than the decoder's own buffer


def step(numbers: int) -> StepMessage:
    return StepMessage(session=SESSION, number=1, start=0, tensors=[float_meta(numbers)])


def raw(header: object, payload: bytes = b"", payload_bytes: int | None = None) -> bytes:
    """A frame around any header."""
    packed = header if isinstance(header, bytes) else msgpack.packb(header)
    return (
        struct.pack(">II", len(packed), len(payload) if payload_bytes is None else payload_bytes)
        + packed
        + payload
    )


def decode_in_pieces(data: bytes, sizes: list[int]) -> list[Frame]:
    decoder, frames, offset = FrameDecoder(), [], 0
    for size in [*sizes, len(data)]:
        frames += decoder.feed(data[offset : offset + size])
        offset += size
    return frames


@given(st.lists(st.integers(1, 400), max_size=8))
def test_frames_survive_any_cutting(sizes: list[int]) -> None:
    messages: list[tuple[Message, bytes]] = [
        (Ping(nonce=7), b""),
        (step(50), bytes(range(200))),
        (Ping(nonce=8), b""),
    ]
    data = b"".join(encode(message, [payload]) for message, payload in messages)
    assert [(frame.message, bytes(frame.payload)) for frame in decode_in_pieces(data, sizes)] == messages


@pytest.mark.parametrize("first", [1, 7, 8, 100, 1000, BULK // 2, BULK + 50])
def test_a_bulk_payload_between_small_frames_arrives_whole(first: int) -> None:
    payload = bytes(i % 251 for i in range(BULK))
    data = (
        encode(Ping(nonce=1))
        + encode(step(BULK // 4), [payload[:1000], payload[1000:]])
        + encode(Ping(nonce=2))
    )
    frames = decode_in_pieces(data, [first, 1000])
    assert [type(frame.message) for frame in frames] == [Ping, StepMessage, Ping]
    assert frames[1].payload == payload


def test_payloads_do_not_share_memory_with_later_ones() -> None:
    decoder = FrameDecoder()
    [first] = decoder.feed(encode(step(1), [b"aaaa"]))
    decoder.feed(encode(step(1), [b"bbbb"]))
    assert bytes(first.payload) == b"aaaa"


MALFORMED = {
    "empty header": raw(b""),
    "header too long": struct.pack(">II", MAX_HEADER_BYTES + 1, 0),
    "header of 4 GiB": b"\xff" * 8,
    "payload too long": struct.pack(">II", 10, MAX_PAYLOAD_BYTES + 1),
    "no msgpack": raw(b"\xc1"),
    "more than one value": raw(b"\x01\x02"),
    "a number": raw(7),
    "a list": raw(["ping"]),
    "no type": raw({"nonce": 1}),
    "unknown type": raw({"type": "pwn"}),
    "unknown field": raw({"type": "ping", "nonce": 1, "more": 1}),
    "missing field": raw({"type": "ping"}),
    "text for a number": raw({"type": "ping", "nonce": "1"}),
    "float for a number": raw({"type": "ping", "nonce": 1.0}),
    "bool for a number": raw({"type": "ping", "nonce": True}),
    "negative": raw({"type": "ping", "nonce": -1}),
    "number keys": raw(b"\x81\x01\x02"),
    "extension type": raw(b"\xc7\x01\x05\x00"),
    "timestamp": raw(b"\xd6\xff\x00\x00\x00\x00"),
    "huge list announced": raw(b"\xdd\xff\xff\xff\xff"),
    "huge map announced": raw(b"\xdf\xff\xff\xff\xff"),
    "huge text announced": raw(b"\xdb\xff\xff\xff\xff"),
    "deep nesting": raw(b"\x91" * 60_000 + b"\x01"),
    "deep nesting before the type": raw(b"\x82\xa5nonce" + b"\x91" * 60_000 + b"\x01\xa4type\xa4ping"),
    "deep nesting in what is skipped": raw(b"\x82\xa4type\xa5hello\xa4more" + b"\x91" * 60_000 + b"\x01"),
    "huge list of tensors announced": raw(b"\x82\xa4type\xa4step\xa7tensors\xdd\xff\xff\xff\xff"),
    "other type after the first": raw(b"\x83\xa4type\xa4ping\xa5nonce\x01\xa4type\xa4pong"),
    "type of a part": raw({"type": "NextHop", "peer": "Q", "session": SESSION}),
    "broken text": raw(b"\x81\xa4type\xa2\xff\xfe"),
    "payload without tensors": raw({"type": "ping", "nonce": 1}, b"x"),
    "announced payload without tensors": raw({"type": "ping", "nonce": 1}, payload_bytes=1 << 20),
}


@pytest.mark.parametrize("data", MALFORMED.values(), ids=MALFORMED)
def test_malformed_frames_are_refused_in_one_line(data: bytes) -> None:
    with pytest.raises(PeerIncompatible, match="malformed") as caught:
        FrameDecoder().feed(data)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300


def tensor_header(
    dtype: object = "float32", shape: object = (1, 4), name: object = "hidden"
) -> dict[str, object]:
    tensor = {"name": name, "dtype": dtype, "shape": shape}
    return {"type": "step", "session": SESSION, "number": 1, "start": 0, "tensors": [tensor]}


TIMES = {"queue_s": 0.5, "compute_s": 1, "serialise_s": 0.5}
NO_FLOATS: dict[str, object] = {
    "nan": float("nan"),
    "infinity": float("inf"),
    "minus infinity": float("-inf"),
    "negative": -1e-9,
    "bool": True,
    "text": "1",
}


def with_float(name: str, value: object) -> dict[str, object]:
    """A header in which the float `name` has this value."""
    match name:
        case "bytes_per_s":
            return {"type": "ping", "nonce": 1, name: value}
        case "retry_after_s":
            return {"type": "failed", "request": 1, "kind": "busy", "message": "", name: value}
        case _:
            return {**tensor_header(), "trace": [{"peer": "Q", **TIMES, name: value}]}


@pytest.mark.parametrize("value", NO_FLOATS.values(), ids=NO_FLOATS)
@pytest.mark.parametrize("name", ["bytes_per_s", "retry_after_s", *TIMES])
def test_times_and_rates_are_finite_numbers(name: str, value: object) -> None:
    payload = bytes(16) if name in TIMES else b""
    assert FrameDecoder().feed(raw(with_float(name, 1), payload))
    with pytest.raises(PeerIncompatible, match=f"malformed message: .*{name}"):
        FrameDecoder().feed(raw(with_float(name, value), payload))


@pytest.mark.parametrize("peer", ["", "Q" * 129, "Q\n", "\nQ", "Q\u2028", "0", "../x"], ids=repr)
def test_names_of_peers_are_base58(peer: str) -> None:
    with pytest.raises(PeerIncompatible, match=r"malformed message: .*peer"):
        FrameDecoder().feed(raw({**tensor_header(), "trace": [{"peer": peer, **TIMES}]}, bytes(16)))


BAD_TENSORS = {
    "empty shape": tensor_header(shape=[]),
    "zero": tensor_header(shape=[0, 4]),
    "negative": tensor_header(shape=[-1, -16]),
    "nan": tensor_header(shape=[float("nan")]),
    "infinite": tensor_header(shape=[float("inf")]),
    "float": tensor_header(shape=[16.0]),
    "huge": tensor_header(shape=[1 << 24] * 5),
    "over 64 bits": tensor_header(shape=[(1 << 64) - 1]),
    "too many dimensions": tensor_header(shape=[1] * 6),
    "other dtype": tensor_header(dtype="complex128"),
    "dtype of an object": tensor_header(dtype="object"),
    "smaller than the payload": tensor_header(shape=[1, 3]),
    "larger than the payload": tensor_header(shape=[1, 5]),
    "wider than the payload": tensor_header(dtype="int64"),
    "odd name": tensor_header(name="../x"),
    "name of two lines": tensor_header(name="hidden\n"),
    "no tensors": {**tensor_header(), "tensors": []},
    "too many tensors": {**tensor_header(), "tensors": tensor_header(shape=[1])["tensors"] * 17},  # type: ignore[operator]
}


@pytest.mark.parametrize("header", BAD_TENSORS.values(), ids=BAD_TENSORS)
def test_tensors_that_do_not_fill_the_payload_exactly_are_refused(header: dict[str, object]) -> None:
    with pytest.raises(PeerIncompatible, match="malformed"):
        FrameDecoder().feed(raw(header, bytes(16)))


def test_nothing_is_allocated_for_a_refused_announcement() -> None:
    decoder = FrameDecoder()
    lies = raw(tensor_header(shape=[1, 4]), payload_bytes=200 << 20)
    tracemalloc.start()
    try:
        with pytest.raises(PeerIncompatible):
            decoder.feed(lies)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def test_exactly_what_was_announced_is_allocated_for_a_valid_one() -> None:
    decoder = FrameDecoder()
    header = raw(tensor_header(shape=[1, 4 << 20]), payload_bytes=16 << 20)
    tracemalloc.start()
    try:
        assert decoder.feed(header) == []
        assert decoder.in_bulk
        assert tracemalloc.get_traced_memory()[1] < (16 << 20) + (1 << 20)
    finally:
        tracemalloc.stop()


def test_the_payload_limit_is_an_argument() -> None:
    data = encode(step(250), [bytes(1000)])
    assert FrameDecoder(1000).feed(data)
    with pytest.raises(PeerIncompatible, match="limit of 999"):
        FrameDecoder(999).feed(data)


def test_too_large_messages_are_not_sent() -> None:
    with pytest.raises(RequestError, match="send fewer tokens at once"):
        encode_head(step(1), MAX_PAYLOAD_BYTES + 1)
    trace = [HopTiming(peer="Q" * 128, queue_s=0.5, compute_s=0.5)] * 512
    with pytest.raises(RequestError, match="header"):
        encode_head(Output(session=SESSION, number=1, start=0, trace=trace, tensors=[float_meta(1)]), 4)


OUT_OF_BOUNDS: list[Message] = [
    Ping(nonce=-1),
    Close(request=0, session=b"short"),
    Close(request=0, session=SESSION, prefix=[SESSION] * 2049),
    Relink(request=0, session=SESSION, next=NextHop(peer="Q", session=SESSION, addresses=[""])),
    StepFailed(session=SESSION, number=1, kind="request", message="é" * 2001),
]


@pytest.mark.parametrize("message", OUT_OF_BOUNDS, ids=lambda message: type(message).__name__)
def test_messages_out_of_bounds_are_not_sent(message: Message) -> None:
    with pytest.raises(RequestError, match=f"{type(message).__name__} cannot be sent: .* at `") as caught:
        encode_head(message, 0)
    assert "\n" not in str(caught.value)


def test_what_has_its_default_is_left_out_and_may_be_said() -> None:
    assert encode(Ping(nonce=1)) == raw({"type": "ping", "nonce": 1})
    said: dict[str, object] = {"select_rows": None, "keep_last": 0, "replay": None, "trace": []}
    [frame] = FrameDecoder().feed(raw(tensor_header() | said, bytes(16)))
    assert frame.message == StepMessage(session=SESSION, number=1, start=0, tensors=[float_meta(4)])


def test_the_key_of_a_shortcut_is_not_shown() -> None:
    assert "k" * 16 not in repr(Shortcut(port=1, token=b"k" * 16, key=b"k" * 32))


def test_a_hello_of_the_future_may_say_more() -> None:
    [frame] = FrameDecoder().feed(raw({"type": "hello", "protocol": 99, "colour": "blue"}))
    assert frame.message == Hello(protocol=99)


def test_text_of_the_largest_size_fits() -> None:
    failed = StepFailed(session=SESSION, number=1, kind="request", message="é" * 2000)
    [frame] = FrameDecoder().feed(encode(failed))
    assert frame.message == failed
