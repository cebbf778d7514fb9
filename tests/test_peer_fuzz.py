"""Random messages to a peer: it never fails, never reserves more than it has, and serves others exactly as before."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from swarm.core.config import PeerLimits
from swarm.wire.control_messages import Close, Inspect, NextHop, Open, Relink, Replay
from swarm.wire.message import Message
from swarm.wire.step_messages import HopTiming, Output, Replayed, ReplayInfo, StepFailed, StepMessage
from swarm.wire.tensors import pack
from tests.callers import OTHER, SESSION, Caller, alone, states
from tests.in_process import Lab

pytestmark = pytest.mark.slow

SESSIONS = [SESSION, OTHER, b"u" * 16]
PEERS = ["B", "fuzzer", "nobody"]
DTYPES = [torch.float32, torch.float32, torch.float32, torch.bfloat16, torch.float16, torch.int64, torch.bool]
NAMES = ["mask", "positions", "token_ids", "embeds", "per_layer", "carry.0", "carry.7", "carry.15", "logits"]
SHAPES = st.lists(st.integers(1, 5), min_size=1, max_size=5)

sessions = st.sampled_from(SESSIONS)
peer_ids = st.sampled_from(PEERS)
positions = st.one_of(st.integers(0, 12), st.sampled_from([255, 256, 1 << 23, 1 << 24]))
numbers = st.one_of(st.integers(0, 6), st.just((1 << 53) - 1))
next_hops = st.none() | st.builds(NextHop, peer=peer_ids, session=sessions)


@st.composite
def a_tensor(draw: st.DrawFn, shape: list[int]) -> torch.Tensor:
    dtype = draw(st.sampled_from(DTYPES))
    fill = draw(st.sampled_from([0.0, 1.0, -1.0, 6e4, float("nan"), float("inf"), 200.0]))
    if not dtype.is_floating_point:
        fill = draw(st.sampled_from([0, 1, -1, 159, 160, 255, 1 << 40]))
    return torch.full(shape, fill, dtype=dtype)


@st.composite
def step_tensors(draw: st.DrawFn) -> dict[str, torch.Tensor]:
    """Mostly near to what the model wants."""
    rows, tokens = draw(st.sampled_from([1, 1, 2, 4])), draw(st.integers(1, 5))
    hidden = torch.randn(rows, tokens, 32)
    right_hidden = [st.just(hidden)] * 6
    tensors = {
        "hidden": draw(st.one_of(*right_hidden, a_tensor([rows, tokens, 32]), SHAPES.flatmap(a_tensor)))
    }
    right = {
        "mask": torch.ones(rows, tokens, dtype=torch.bool),
        "positions": torch.arange(tokens).expand(rows, tokens),
    }
    for name in draw(st.just([]) | st.lists(st.sampled_from(NAMES), max_size=3, unique=True)):
        choices: list[Any] = [
            a_tensor([rows, tokens]),
            a_tensor([rows, tokens, 32]),
            SHAPES.flatmap(a_tensor),
        ]
        choices += [st.just(right[name])] * 3 if name in right else []
        tensors[name] = draw(st.one_of(*choices))
    if draw(st.integers(0, 9)) == 9:
        del tensors["hidden"]
        tensors.setdefault("mask", right["mask"])
    return tensors


@st.composite
def steps(draw: st.DrawFn) -> tuple[Message, list[memoryview]]:
    metas, payload = pack(draw(step_tensors()), draw(st.sampled_from([None, None, None, "int8"])))
    message = StepMessage(
        session=draw(sessions),
        number=draw(numbers),
        start=draw(positions),
        select_rows=draw(st.none() | st.none() | st.lists(st.integers(0, 4), min_size=1, max_size=4)),
        keep_last=draw(positions),
        replay=draw(st.none() | st.builds(ReplayInfo, until=st.integers(0, 7), last=st.booleans())),
        trace=[HopTiming(peer="fuzzer", queue_s=0.0, compute_s=0.0)]
        * draw(st.sampled_from([0, 1, 511, 512])),
        tensors=metas,
    )
    return message, payload


def controls() -> st.SearchStrategy[tuple[Message, list[memoryview]]]:
    request = st.just(0)
    opens = st.builds(
        Open,
        request=request,
        session=sessions,
        model_uid=st.sampled_from(["right-one", "wrong-one"]),
        precision=st.sampled_from(["float32", "float32", "float32", "bfloat16"]),
        start=st.integers(0, 2),
        end=st.integers(3, 6),
        tokens=st.sampled_from([1, 64, 200, 5000, 1 << 32]),
        rollback=st.booleans(),
        coding=st.sampled_from([None, None, "int8"]),
        previous=st.none() | peer_ids,
        next=next_hops,
    )
    found: list[Any] = [
        opens,
        opens,
        st.builds(Relink, request=request, session=sessions, previous=st.none() | peer_ids, next=next_hops),
        st.builds(Replay, request=request, session=sessions, until=st.integers(0, 7), chunk=positions),
        st.builds(Inspect, request=request, session=sessions),
        st.builds(Close, request=request, session=sessions),
        st.builds(
            StepFailed, session=sessions, number=numbers, kind=st.just("busy"), message=st.text(max_size=9)
        ),
        st.builds(Replayed, session=sessions, length=positions, step=st.integers(-1, 5)),
    ]
    return st.one_of(*found).map(lambda message: (message, []))


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with Lab() as lab:
        lab.serve("A", 0, 6, cache_tokens=2048, limits=PeerLimits(max_batch_rows=3, admission_wait_s=0.1))
        lab.serve("B", 0, 6, cache_tokens=512)
        yield lab


def send_all(lab: Lab, caller: Caller, sent: list[tuple[Message, list[memoryview]]], following: bool) -> None:
    """Send everything; requests are not waited for. `following`: steps continue the first session, as they should."""
    uid = lab.peers["A"].offer.model_uid
    for number, (message, payload) in enumerate(sent):
        if isinstance(message, Open) and message.model_uid == "right-one":
            message = replace(message, model_uid=uid)
        if isinstance(message, StepMessage) and following:
            length = next((s.shard.length for s in lab.peers["A"].service.sessions if s.id == SESSION), 0)
            message = replace(message, session=SESSION, number=number, start=length)
        lab.do(caller.link.send(message, payload))
        if following:
            lab.settle()


@settings(
    max_examples=80,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],
    database=None,
)
@given(
    sent=st.lists(st.one_of(steps(), steps(), controls()), min_size=6, max_size=16), following=st.booleans()
)
def test_whatever_one_client_sends_others_are_served_and_the_books_are_right(
    lab: Lab, sent: list[tuple[Message, list[memoryview]]], following: bool
) -> None:
    fuzzer, honest = Caller(lab, "fuzzer"), Caller(lab, "honest")
    session = b"h" * 16
    honest.open(session)
    pieces = [states(4), states(1, seed=8)]
    honest.send(0, 0, pieces[0], session=session)
    fuzzer.open(tokens=64)
    send_all(lab, fuzzer, sent, following)
    lab.do(asyncio.sleep(1.0))
    answer = honest.send(1, 4, pieces[1], session=session)
    assert isinstance(answer, Output)
    assert torch.equal(honest.output(), alone(lab, "A", pieces)), "as if nobody else had been there"
    lab.peers["A"].pool.check()
    lab.do(lab.meadow.nodes["fuzzer"].hang_up())
    honest.close(session)
    lab.settle()
    for peer in lab.peers.values():
        assert peer.pool.free_tokens == peer.pool.total_tokens
        assert len(peer.service.sessions) == 0
        assert len(peer.service._crew) == 1, "only the sweeper is left"
    assert not lab.unhandled
