"""Strangers' bytes: whatever comes, the decoder refuses it within its bounds and the other links of a node go on."""

from __future__ import annotations

import asyncio
import random
import struct
import tracemalloc
from math import prod
from types import SimpleNamespace
from typing import Any

import msgpack
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec import Struct

from swarm.core.errors import PeerIncompatible, SwarmError
from swarm.security.identity import Identity
from swarm.security.signed import seal
from swarm.wire.control_messages import Done, Failed, NextHop, Open, Replay
from swarm.wire.frames import MAX_HEADER_BYTES, MAX_PAYLOAD_BYTES, Frame, FrameDecoder, decode_header, encode
from swarm.wire.message import Message, TensorMeta
from swarm.wire.messages import Hello, Ping
from swarm.wire.record_gate import MAX_LEASE_S, RecordGate, key_hash
from swarm.wire.step_messages import HopTiming, Output, StepFailed, StepMessage
from swarm.wire.switchboard import MAX_ACCEPTED_PER_PEER
from swarm.wire.tensor_size import decoded_nbytes
from swarm.wire.tensors import unpack
from tests.link_pair import link_pair, raw_to_link
from tests.wire_nodes import SESSION, Inbox, closed, float_meta, inspect, node, record, run, until

ME = Identity(b"m" * 32)
LIMIT = 1 << 20  # of payloads in these tests
quick = settings(max_examples=150, deadline=None, derandomize=True, database=None)
few = settings(
    max_examples=25,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow],
)

CODED = TensorMeta(name="embeds", dtype="bfloat16", shape=[1, 2, 70], coding="int8")
VALID: list[tuple[Message, bytes]] = [
    (Hello(protocol=1), b""),
    (Ping(nonce=3), b""),
    (Done(request=1, length=3), b""),
    (Failed(request=1, kind="busy", message="full", retry_after_s=0.5), b""),
    (
        Open(
            request=1,
            session=SESSION,
            model_uid="u" * 32,
            precision="float32",
            start=0,
            end=4,
            tokens=100,
            next=NextHop(peer=ME.peer_id, session=SESSION, addresses=["/ip4/127.0.0.1/tcp/1"]),
        ),
        b"",
    ),
    (Replay(request=2, session=SESSION, until=4), b""),
    (StepMessage(session=SESSION, number=1, start=7, select_rows=[0, 0], tensors=[float_meta(8)]), bytes(32)),
    (
        Output(
            start=0,
            session=SESSION,
            number=1,
            trace=[HopTiming(peer=ME.peer_id, queue_s=0.0, compute_s=0.1)],
            tensors=[float_meta(4), float_meta(4, "carry.0")],
        ),
        bytes(32),
    ),
    (StepFailed(session=SESSION, number=1, kind="request", message="no"), b""),
    (StepMessage(session=SESSION, number=2, start=7, tensors=[CODED, float_meta(2)]), bytes(140 + 16 + 8)),
]
FRAMES = [encode(message, [payload]) for message, payload in VALID]

scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(1 << 63), (1 << 64) - 1)
    | st.floats()
    | st.text(max_size=20)
    | st.binary(max_size=20)
)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=8), inner, max_size=5),
    max_leaves=12,
)


def decode(data: bytes) -> list[Frame] | None:
    """The frames in `data`; None if it was refused. Anything but a refusal is a failed test."""
    try:
        return FrameDecoder(LIMIT).feed(data)
    except PeerIncompatible:
        return None


@st.composite
def mutated_frames(draw: st.DrawFn) -> bytes:
    """A valid frame with some bytes changed, cut out, doubled or inserted."""
    data = bytearray(draw(st.sampled_from(FRAMES)))
    for _ in range(draw(st.integers(1, 4))):
        place = draw(st.integers(0, max(len(data) - 1, 0)))
        match draw(st.sampled_from(["change", "cut", "double", "insert"])):
            case "change" if data:
                data[place] = draw(st.integers(0, 255))
            case "cut":
                del data[place : place + draw(st.integers(1, 30))]
            case "double":
                data[place:place] = data[place : place + 20]
            case _:
                data[place:place] = draw(st.binary(min_size=1, max_size=8))
    return bytes(data)


def spelled_out(value: Any) -> Any:
    """What stands in a message, with everything that is left out on the wire."""
    if not isinstance(value, Struct):
        return [spelled_out(item) for item in value] if isinstance(value, list) else value
    tag = value.__struct_config__.tag
    fields = {name: spelled_out(getattr(value, name)) for name in value.__struct_fields__}
    return fields if tag is None else {"type": tag} | fields


@st.composite
def mutated_headers(draw: st.DrawFn) -> dict[str, Any]:
    """The fields of a valid message with some of them replaced, at any depth."""
    message, _ = draw(st.sampled_from(VALID))
    fields: Any = spelled_out(message)
    spot = fields
    while True:
        key = (
            draw(st.sampled_from(sorted(spot)))
            if isinstance(spot, dict)
            else draw(st.integers(0, len(spot) - 1))
        )
        inner = spot[key]
        if not (isinstance(inner, dict | list) and inner) or draw(st.booleans()):
            spot[key] = draw(values)
            return dict(fields)
        spot = inner


@quick
@given(st.binary(max_size=300))
def test_random_bytes_are_refused_or_waited_on(data: bytes) -> None:
    decode(data)


@quick
@given(mutated_frames(), st.sampled_from(FRAMES))
def test_mutated_frames_yield_valid_messages_or_a_refusal(data: bytes, follower: bytes) -> None:
    for frame in decode(data + follower) or []:
        assert isinstance(frame.message, Message)
        assert frame.payload.nbytes == sum(map(_nbytes, getattr(frame.message, "tensors", [])))


def _nbytes(meta: Any) -> int:
    size = {"float32": 4, "bfloat16": 2, "float16": 2, "int64": 8, "bool": 1}[meta.dtype]
    if meta.coding == "int8":
        scales = prod(meta.shape[:-1]) * (-(-meta.shape[-1] // 64))
        return int(prod(meta.shape) + 4 * scales)
    return int(prod(meta.shape) * size)


@quick
@given(mutated_headers(), st.integers(0, 64))
def test_mutated_headers_are_refused_or_valid(fields: dict[str, Any], payload_bytes: int) -> None:
    try:
        packed = msgpack.packb(fields)
    except (ValueError, OverflowError):
        return  # not even msgpack can say this
    try:
        message = decode_header(packed, payload_bytes)
    except PeerIncompatible as exc:
        words = str(exc)
    else:
        words = ""
        assert sum(map(_nbytes, getattr(message, "tensors", []))) == payload_bytes
    assert words == "" or words.isprintable()


@quick
@given(
    st.sampled_from(["float32", "bfloat16", "float16", "int64", "bool"]),
    st.lists(st.integers(1, 1 << 24), min_size=1, max_size=5),
    st.sampled_from([None, "int8", "int4", b"int8", 8, True, ""]),
    st.integers(0, 1 << 20),
)
def test_coded_tensors_are_refused_unless_they_fit_exactly_and_decode_into_no_more_than_a_frame(
    dtype: str, shape: list[int], coding: Any, payload_bytes: int
) -> None:
    tensor = {"name": "hidden", "dtype": dtype, "shape": shape, "coding": coding}
    header = {"type": "step", "session": SESSION, "number": 1, "start": 0, "tensors": [tensor]}
    try:
        message = decode_header(msgpack.packb(header), payload_bytes)
    except PeerIncompatible:
        return
    assert isinstance(message, StepMessage)
    [meta] = message.tensors
    assert _nbytes(meta) == payload_bytes
    assert meta.coding is None or (meta.dtype in ("float32", "bfloat16", "float16") and len(shape) >= 3)
    assert decoded_nbytes([meta]) <= MAX_PAYLOAD_BYTES


@pytest.mark.parametrize(
    ("dtype", "shape", "excess"),
    [
        ("float32", [1, 1, 65], 1),
        ("float32", [1, 1, 65], -1),
        ("bfloat16", [2, 3, 64], 4),
        ("int64", [1, 1, 8], 0),
        ("bool", [1, 1, 8], 0),
        ("float32", [1, 64], 0),
        ("float32", [1, 1 << 12, (1 << 14) + 1], 0),
    ],
    ids=str,
)
def test_coded_tensors_of_wrong_sizes_and_kinds_are_refused_before_anything_is_allocated(
    dtype: Any, shape: list[int], excess: int
) -> None:
    tensor = {"name": "hidden", "dtype": dtype, "shape": shape, "coding": "int8"}
    header = {"type": "step", "session": SESSION, "number": 1, "start": 0, "tensors": [tensor]}
    right = _nbytes(SimpleNamespace(dtype=dtype, shape=shape, coding="int8"))
    with pytest.raises(PeerIncompatible, match="malformed message"):
        decode_header(msgpack.packb(header), right + excess)


@quick
@given(st.binary(min_size=164, max_size=164))
def test_any_bytes_of_a_coded_tensor_decode_into_numbers_of_its_kind(payload: bytes) -> None:
    [embeds, hidden] = unpack([CODED, float_meta(2)], bytearray(payload), coding="int8").values()
    assert (list(embeds.shape), str(embeds.dtype)) == ([1, 2, 70], "torch.bfloat16")
    assert hidden.numel() == 2


@quick
@given(values | st.builds(lambda text: {"type": text}, st.text()))
def test_headers_that_are_anything_are_refused_in_printable_words(value: Any) -> None:
    with pytest.raises(PeerIncompatible) as caught:
        decode_header(msgpack.packb(value), 0)
    assert str(caught.value).isprintable()


@quick
@given(st.integers(0, (1 << 32) - 1), st.integers(0, (1 << 32) - 1), st.binary(max_size=64))
def test_no_announcement_makes_the_decoder_allocate_over_its_bounds(
    header: int, payload: int, rest: bytes
) -> None:
    tracemalloc.start()
    try:
        decode(struct.pack(">II", header, payload) + rest)
        assert tracemalloc.get_traced_memory()[1] < LIMIT + MAX_HEADER_BYTES + (512 << 10)
    finally:
        tracemalloc.stop()


@quick
@given(st.lists(st.sampled_from(range(len(FRAMES))), max_size=6), st.integers(0, 2**32))
def test_replayed_and_reordered_frames_decode_alike_however_they_are_cut(order: list[int], seed: int) -> None:
    rng = random.Random(seed)
    data = b"".join(FRAMES[index] for index in order)
    decoder, frames = FrameDecoder(LIMIT), []
    while data:
        cut = rng.randint(1, 80)
        frames += decoder.feed(data[:cut])
        data = data[cut:]
    assert [frame.message for frame in frames] == [VALID[index][0] for index in order]


@pytest.mark.slow
@few
@given(st.lists(mutated_frames(), min_size=1, max_size=3), st.booleans())
def test_a_link_fed_with_mutated_frames_ends_or_goes_on_and_disturbs_no_other(
    data: list[bytes], hello: bool
) -> None:
    async def scenario() -> None:
        inbox = Inbox()
        async with link_pair(right=inbox) as (healthy, _), raw_to_link(inbox) as (link, (_, writer)):
            writer.write((encode(Hello(protocol=1)) if hello else b"") + b"".join(data))
            writer.write_eof()
            await closed(link)
            with pytest.raises(SwarmError):
                await link.send(Ping(nonce=1))
            await healthy.send(
                StepMessage(session=b"h" * 16, number=1, start=0, tensors=[float_meta(1)]), [b"abcd"]
            )
            while True:
                came_over, _, payload = await inbox.next()
                if came_over is not link:
                    assert payload == b"abcd"
                    return

    run(scenario())


@pytest.mark.slow
@pytest.mark.network
def test_strangers_with_raw_streams_to_a_real_node_disturb_nobody() -> None:
    rng = random.Random(7)
    garbage = [rng.randbytes(rng.randint(1, 2000)) for _ in range(10)]
    greeted = [
        encode(Hello(protocol=1)) + tail for tail in (*garbage[:4], b"\xff" * 8, FRAMES[6][:-1], FRAMES[0])
    ]
    lying = encode(Hello(protocol=1)) + struct.pack(">II", len(FRAMES[6]) - 40, 0xFFFFFFFF) + FRAMES[6][8:]

    async def scenario() -> None:
        from hivemind.p2p import PeerID

        inbox = Inbox()
        async with (
            node(inbox) as victim,
            node(peers=victim.addresses, listen=False) as friend,
            node(peers=victim.addresses, listen=False) as stranger,
        ):
            link = await friend.connect(victim.peer_id)
            target = PeerID.from_base58(victim.peer_id)
            for data in (*garbage, *greeted, lying):
                _, reader, writer = await stranger._daemon.p2p.call_binary_stream_handler(
                    target, "swarm/link"
                )
                writer.write(data)
                writer.write_eof()
                await reader.read()
                writer.close()
            await link.send(
                StepMessage(session=SESSION, number=1, start=0, tensors=[float_meta(1)]), [b"abcd"]
            )
            came_over, message, payload = await inbox.next()
            assert (came_over.peer_id, message.number, payload) == (friend.peer_id, 1, b"abcd")  # type: ignore[attr-defined]
            await until(
                lambda: {found.peer_id for found in victim.links()} == {friend.peer_id}, "the friend alone"
            )

    run(scenario())


async def greeting(reader: asyncio.StreamReader) -> bytes:
    """What a node says first; nothing where it refuses, which resets a stream whose bytes it has not read."""
    try:
        return await reader.read(4)
    except ConnectionResetError:
        return b""


@pytest.mark.slow
@pytest.mark.network
def test_a_node_accepts_few_links_from_one_stranger() -> None:
    async def scenario() -> None:
        from hivemind.p2p import PeerID

        async with node() as victim, node(peers=victim.addresses, listen=False) as stranger:
            streams = []
            target, hello = PeerID.from_base58(victim.peer_id), encode(Hello(protocol=1))
            for _ in range(2 * MAX_ACCEPTED_PER_PEER):
                _, reader, writer = await stranger._daemon.p2p.call_binary_stream_handler(
                    target, "swarm/link"
                )
                writer.write(hello)
                streams.append((reader, writer))
            greetings = [await greeting(reader) for reader, _ in streams]
            assert sum(map(bool, greetings)) == MAX_ACCEPTED_PER_PEER
            assert len(victim.links()) <= MAX_ACCEPTED_PER_PEER
            for _, writer in streams:
                writer.close()
            await until(lambda: not victim.links(), "the end of the links")
            assert await stranger.connect(victim.peer_id)

    run(scenario())


# records --------------------------------------------------------------------------------------------------------------

NOW = 1_000_000.0
GOOD = msgpack.packb(seal(record(ME.peer_id, ["k"], NOW, NOW + 20), ME))
KEY, SUBKEY = key_hash("k"), msgpack.packb(ME.peer_id)


@quick
@given(st.binary(max_size=24), st.binary(max_size=80), st.binary(max_size=300), st.floats(), st.floats())
def test_random_records_are_refused(
    key: bytes, subkey: bytes, value: bytes, expiration: float, now: float
) -> None:
    assert not RecordGate(inspect).admits(key, subkey, value, expiration, now)


@quick
@given(st.integers(0, len(GOOD) - 1), st.integers(1, 255))
def test_no_byte_of_a_record_can_be_changed(place: int, change: int) -> None:
    value = bytearray(GOOD)
    value[place] ^= change
    assert not RecordGate(inspect).admits(KEY, SUBKEY, bytes(value), NOW + 20, NOW)


@quick
@given(values)
def test_signed_nonsense_is_refused(body: Any) -> None:
    sealed = msgpack.packb(seal(repr(body).encode(errors="replace"), ME))
    assert not RecordGate(inspect).admits(KEY, SUBKEY, sealed, NOW + 20, NOW)


@quick
@given(st.floats(), st.floats(), st.floats(), st.floats())
def test_only_leases_within_bounds_are_admitted(
    issued: float, expires: float, stored: float, now: float
) -> None:
    sealed = msgpack.packb(seal(record(ME.peer_id, ["k"], issued, expires), ME))
    if RecordGate(inspect).admits(KEY, SUBKEY, sealed, stored, now):
        assert issued < expires <= issued + MAX_LEASE_S
        assert abs(stored - expires) < 0.01
        assert expires < now + MAX_LEASE_S + 4


@quick
@given(st.binary(max_size=200))
def test_bytes_that_are_no_msgpack_are_no_record(value: bytes) -> None:
    assert RecordGate(inspect).opened(value) is None
