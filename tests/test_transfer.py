"""The state of a session on its way from one peer to another, and who may send one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from swarm.core.errors import NextUnreachable, PeerBusy, PeerError, RequestError, SessionLost
from swarm.wire.control_messages import StateEnd, Transfer
from swarm.wire.step_messages import Output, StatePart
from swarm.wire.tensors import pack
from tests.callers import OTHER, SESSION, Caller, alone, next_hop, states
from tests.in_process import Lab

LAYERS = (0, 1, 2)


@pytest.fixture
def lab() -> Iterator[Lab]:
    with Lab() as lab:
        lab.serve("A", 0, 3, cache_tokens=256)
        lab.serve("a", 0, 3, cache_tokens=256)
        yield lab


def part(layer: int | None, start: int, tensors: dict[str, Tensor]) -> tuple[StatePart, Any]:
    metas, payload = pack(tensors)
    return StatePart(session=SESSION, layer=layer, start=start, tensors=metas), payload


def keys(tokens: int = 4, rows: int = 1) -> dict[str, Tensor]:
    return {"keys": torch.ones(rows, 2, tokens, 8), "values": torch.ones(rows, 2, tokens, 8)}


def end(length: int = 4, step: int = 0) -> StateEnd:
    return StateEnd(request=0, session=SESSION, length=length, step=step, masked=False)


def bring(donor: Caller, tokens: int = 4) -> None:
    """A whole state."""
    for layer in LAYERS:
        donor.send_message(*part(layer, 0, keys(tokens)))
    donor.send_message(*part(None, 0, {"hidden": states(tokens)}))


def test_a_transferred_session_goes_on_as_if_it_had_been_there_from_the_beginning(lab: Lab) -> None:
    owner, at_new = Caller(lab, "User"), Caller(lab, "User", peer="a")
    owner.open()
    at_new.open(OTHER, donor="A")
    owner.send(0, 0, states(5))
    done = owner.ask(Transfer(request=0, session=SESSION, to=next_hop("a", OTHER)))
    assert (done.length, done.step) == (5, 0)
    assert isinstance(at_new.send(0, 0, states(5), session=OTHER), Output)
    assert torch.equal(at_new.output(), alone(lab, "A", [states(5)])), "kept outputs are there"
    at_new.send(1, 5, states(1, seed=8), session=OTHER)
    assert torch.equal(at_new.output(), alone(lab, "A", [states(5), states(1, seed=8)]))
    assert lab.peers["a"].service.load.computed_tokens == 1


def test_a_session_that_holds_nothing_yet_can_be_transferred(lab: Lab) -> None:
    owner, at_new = Caller(lab, "User"), Caller(lab, "User", peer="a")
    owner.open()
    at_new.open(OTHER, donor="A")
    done = owner.ask(Transfer(request=0, session=SESSION, to=next_hop("a", OTHER)))
    assert (done.length, done.step) == (0, -1)
    assert isinstance(at_new.send(0, 0, states(), session=OTHER), Output)


def test_only_the_owner_may_have_a_session_transferred(lab: Lab) -> None:
    Caller(lab, "User").open()
    with pytest.raises(SessionLost):
        Caller(lab, "Stranger").ask(Transfer(request=0, session=SESSION, to=next_hop("a", OTHER)))


@pytest.mark.parametrize("sender", ["Stranger", "User"])
def test_a_state_is_taken_from_the_named_donor_only(lab: Lab, sender: str) -> None:
    owner, other = Caller(lab, "User"), Caller(lab, "Stranger")
    owner.open(donor="Donor")
    caller = owner if sender == "User" else other
    bring(caller)
    with pytest.raises(SessionLost, match="no session here that waits"):
        caller.ask(end())
    assert owner.inspect().length == 0
    donor = Caller(lab, "Donor")
    bring(donor)
    assert donor.ask(end()).length == 4
    assert owner.inspect().length == 4


def test_a_session_without_a_donor_takes_no_state(lab: Lab) -> None:
    owner = Caller(lab, "User")
    owner.open()
    bring(owner)
    with pytest.raises(SessionLost):
        owner.ask(end())


def test_a_state_is_taken_once(lab: Lab) -> None:
    owner, donor = Caller(lab, "User"), Caller(lab, "Donor")
    owner.open(donor="Donor")
    bring(donor)
    donor.ask(end())
    bring(donor)
    with pytest.raises(SessionLost):
        donor.ask(end())


def test_a_session_that_has_begun_by_itself_takes_no_state(lab: Lab) -> None:
    owner, donor = Caller(lab, "User"), Caller(lab, "Donor")
    owner.open(donor="Donor")
    bring(donor)
    owner.send(0, 0, states(4))
    with pytest.raises(RequestError, match="begun by itself"):
        donor.ask(end())
    owner.send(1, 4, states(1, seed=8))
    assert torch.equal(owner.output(), alone(lab, "A", [states(4), states(1, seed=8)]))


@pytest.mark.parametrize(
    ("layer", "start", "tensors", "text"),
    [
        (3, 0, keys(), "no state of layer 3"),
        (0, 1, keys(), "does not end|expected is"),
        (0, 0, keys(rows=65), "at most 64 are allowed"),
        (0, 0, keys(tokens=65), "room for 64 tokens"),
        (0, 0, keys(tokens=3), "layer 0 does not end at position 4"),
        (0, 0, keys(rows=2), "has 1 rows, an earlier one had 2"),
        (0, 0, {"keys": keys()["keys"]}, r"not \['keys'\]"),
        (0, 0, keys() | {"more": torch.ones(1)}, "'more'"),
        (0, 0, {"keys": torch.ones(1, 4, 4, 8), "values": torch.ones(1, 2, 4, 8)}, "keys has shape"),
        (0, 0, {"keys": torch.ones(1, 2, 4, 8), "values": torch.ones(1, 2, 3, 8)}, "different lengths"),
        (0, 0, {name: value.half() for name, value in keys().items()}, "float16"),
        (None, 0, {"mask": torch.ones(1, 4, dtype=torch.bool)}, "need `hidden`"),
        (None, 0, {"hidden": torch.ones(1, 4, 16)}, "hidden has shape"),
        (None, 0, {"hidden": states(4), "positions": torch.full((1, 4), 1 << 40)}, "position"),
        (None, 0, {"hidden": states(4).bfloat16()}, "bfloat16"),
        (None, 0, {"hidden": states(3)}, "kept outputs does not end at position 4"),
    ],
)  # fmt: skip
def test_a_state_that_does_not_fit_is_refused_with_its_reason(
    lab: Lab, layer: int | None, start: int, tensors: dict[str, Tensor], text: str
) -> None:
    owner, donor = Caller(lab, "User"), Caller(lab, "Donor")
    owner.open(donor="Donor")
    donor.send_message(*part(layer, start, tensors))
    for other in (*LAYERS, None):
        if other != layer:
            donor.send_message(*part(other, 0, {"hidden": states(4)} if other is None else keys()))
    with pytest.raises(RequestError, match=text):
        donor.ask(end())
    assert owner.inspect().length == 0


def test_a_step_during_the_transfer_ends_it(lab: Lab) -> None:
    owner, at_new, device = Caller(lab, "User"), Caller(lab, "User", peer="a"), lab.peers["A"].executor
    owner.open()
    at_new.open(OTHER, donor="A")
    owner.send(0, 0, states(4))
    moving = owner.start(Transfer(request=0, session=SESSION, to=next_hop("a", OTHER)))
    device.held = True
    owner.send(1, 4, states(1))
    device.release()
    answer = lab.do(moving)
    assert isinstance(answer, PeerBusy | NextUnreachable) or answer.length in (4, 5)
    assert isinstance(owner.send(2, 5, states(1)), Output), "the session lives on"


def test_a_session_whose_donor_left_in_the_middle_frees_everything_when_it_is_closed(lab: Lab) -> None:
    owner, donor = Caller(lab, "User"), Caller(lab, "Donor")
    owner.open(donor="Donor")
    donor.send_message(*part(0, 0, keys()))
    lab.do(lab.meadow.kill("Donor"))
    owner.close()
    assert lab.peers["A"].pool.free_tokens == 256


SIZES = st.lists(st.integers(1, 5), min_size=1, max_size=5)


@st.composite
def any_part(draw: st.DrawFn) -> tuple[StatePart, Any]:
    layer = draw(st.none() | st.integers(0, 3) | st.just(4096))
    shape = [draw(st.sampled_from([1, 1, 2])), 2, draw(st.integers(1, 4)), 8]
    near = {
        name: torch.full(shape, draw(st.sampled_from([1.0, float("nan")]))) for name in ("keys", "values")
    }
    dtype = draw(st.sampled_from([torch.float32, torch.int64, torch.bool, torch.float16]))
    names = st.sampled_from(["keys", "values", "hidden", "mask", "positions", "carry.0", "conv.0"])
    far = {name: torch.ones(draw(SIZES)).to(dtype) for name in draw(st.lists(names, min_size=1, max_size=3))}
    kept = {"hidden": states(draw(st.integers(1, 4)))}
    return part(
        layer, draw(st.sampled_from([0, 0, 0, 2, 4, 1 << 24])), draw(st.sampled_from([near, kept, far]))
    )


@pytest.mark.slow
@settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
    database=None,
)
@given(sent=st.lists(any_part(), max_size=8), length=st.integers(0, 4))
def test_whatever_a_donor_sends_the_peer_serves_others_as_before(
    lab: Lab, sent: list[tuple[StatePart, Any]], length: int
) -> None:
    owner, donor, honest = Caller(lab, "User"), Caller(lab, "Donor"), Caller(lab, "Honest")
    owner.open(donor="Donor")
    honest.open(OTHER)
    for message, payload in sent:
        donor.send_message(message, payload)
    try:
        donor.ask(end(length))
    except (PeerError, RequestError):
        assert owner.inspect().length == 0
    else:
        owner.send(1, length, states(1))
    assert isinstance(honest.send(0, 0, states(), session=OTHER), Output)
    assert torch.equal(honest.output(), alone(lab, "A", [states()]))
    for caller in (owner, donor, honest):
        lab.do(caller.node.hang_up())
    lab.settle()
    assert lab.peers["A"].pool.free_tokens == 256
    assert not lab.unhandled
