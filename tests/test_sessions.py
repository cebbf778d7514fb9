"""Who may do what with a session, how many there may be, and that nothing stays reserved."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from msgspec.structs import replace

from swarm.core.config import PeerLimits
from swarm.core.errors import (
    NextUnreachable,
    PeerBusy,
    PeerError,
    PeerIncompatible,
    RequestError,
    SessionLost,
)
from swarm.wire.control_messages import Close, Done
from swarm.wire.step_messages import Output, StepFailed
from tests.callers import OTHER, SESSION, Caller, alone, next_hop, outcome, states
from tests.in_process import Lab


@pytest.fixture
def lab() -> Iterator[Lab]:
    with Lab() as lab:
        lab.serve("A", 0, 3, cache_tokens=256)
        lab.serve("B", 3, 6)
        yield lab


CONTROLS: dict[str, Callable[[Caller], Done]] = {
    "inspect": lambda caller: caller.inspect(),
    "relink": lambda caller: caller.relink(None),
    "replay": lambda caller: caller.replay(),
}


@pytest.mark.parametrize("control", CONTROLS)
@pytest.mark.parametrize("who", ["Stranger", "previous"])
def test_only_its_client_controls_a_session(lab: Lab, control: str, who: str) -> None:
    owner, other = Caller(lab, "User"), Caller(lab, who)
    owner.open(previous="previous")
    with pytest.raises(SessionLost) as refused:
        CONTROLS[control](other)
    owner.close()
    with pytest.raises(SessionLost) as unknown:
        CONTROLS[control](other)
    assert str(refused.value) == str(unknown.value), "a session of somebody else looks like none"


def test_closing_somebody_elses_session_does_nothing_and_tells_nothing(lab: Lab) -> None:
    owner, stranger = Caller(lab, "User"), Caller(lab, "Stranger")
    owner.open()
    assert replace(stranger.close(), request=0) == Done(request=0)
    assert owner.inspect().length == 0


def test_a_stranger_cannot_feed_a_session(lab: Lab) -> None:
    owner, stranger = Caller(lab, "User"), Caller(lab, "Stranger")
    owner.open()
    refusals = [stranger.send(0, 0, states(), session=session) for session in (SESSION, OTHER)]
    kinds = [(r.kind, r.message) for r in refusals if isinstance(r, StepFailed)]
    assert len(kinds) == 2
    assert kinds[0] == kinds[1]
    assert owner.inspect().length == 0
    assert owner.received == []


def test_the_peer_named_as_previous_may_feed_and_the_client_gets_the_output(lab: Lab) -> None:
    owner, previous = Caller(lab, "User"), Caller(lab, "previous")
    owner.open(previous="previous")
    assert previous.send(0, 0, states()) is None
    assert torch.equal(owner.output(), alone(lab, "A", [states()]))
    owner.relink(None, previous=None)
    assert isinstance(previous.send(1, 3, states(1)), StepFailed)


def test_an_id_that_is_taken_is_refused(lab: Lab) -> None:
    owner, stranger = Caller(lab, "User"), Caller(lab, "Stranger")
    owner.open()
    for caller in (owner, stranger):
        with pytest.raises(RequestError, match="fresh id"):
            caller.open()
    owner.inspect()


def test_of_two_openings_of_one_id_at_once_one_succeeds(lab: Lab) -> None:
    owner = Caller(lab, "User")
    link = owner.link

    async def both() -> list[Any]:
        opening = owner.opening(next=next_hop("B"))
        requests = (link.request(opening, 9.0), link.request(opening, 9.0))
        return list(await asyncio.gather(*requests, return_exceptions=True))

    results = lab.do(both())
    assert [type(result) for result in results if isinstance(result, Exception)] == [RequestError]
    assert len(lab.peers["A"].service.sessions) == 1


def test_a_session_waits_for_room_a_bounded_time_and_then_says_the_numbers(lab: Lab) -> None:
    owner = Caller(lab, "User")
    owner.open(tokens=200)
    began_s = lab.loop.time()
    with pytest.raises(PeerBusy, match=r"needs 100 tokens, 0 of 256 are free \(waited 2 s\)"):
        owner.open(OTHER, tokens=100)
    assert lab.loop.time() - began_s == pytest.approx(2.0)
    with pytest.raises(RequestError, match="1000 cached tokens, this peer has 256 in all"):
        owner.open(OTHER, tokens=1000)


def test_room_that_becomes_free_is_given_to_whoever_waits(lab: Lab) -> None:
    owner = Caller(lab, "User")
    owner.open(tokens=200)
    waiting = lab.tasks.create_task(owner.link.request(owner.opening(OTHER, tokens=200), 9.0))
    lab.settle()
    assert not waiting.done()
    owner.close()
    assert lab.do(waiting).length == 0


@pytest.mark.parametrize("way", ["leaves", "closes"])
def test_nothing_stays_reserved_for_a_client_that_gives_up_while_its_session_waits(
    lab: Lab, way: str
) -> None:
    holder, owner = Caller(lab, "User"), Caller(lab, "impatient")
    holder.open(tokens=200)
    link = owner.link
    waiting = lab.tasks.create_task(outcome(link.request(owner.opening(OTHER, tokens=200), 9.0)))
    lab.settle()
    if way == "leaves":
        lab.do(link.close("gone"))
    else:
        owner.close(OTHER)
    holder.close()
    assert isinstance(lab.do(waiting), PeerError)
    lab.settle()
    assert lab.peers["A"].pool.free_tokens == 256
    assert len(lab.peers["A"].service.sessions) == 0


def test_a_session_closed_while_its_next_hop_is_dialled_never_opens(lab: Lab) -> None:
    owner = Caller(lab, "User")
    link = owner.link
    waiting = lab.tasks.create_task(outcome(link.request(owner.opening(next=next_hop("B")), 9.0)))
    lab.tasks.create_task(outcome(link.request(Close(request=0, session=SESSION), 9.0)))
    assert isinstance(lab.do(waiting), SessionLost)
    assert lab.peers["A"].pool.free_tokens == 256


def test_the_number_of_sessions_is_limited_for_a_client_and_in_all(lab: Lab) -> None:
    lab.serve("E", 0, 6, limits=PeerLimits(max_sessions=6, max_sessions_per_client=3))
    names = iter(range(100))

    def open_one(caller: Caller) -> None:
        caller.open(bytes([next(names)]) * 16, tokens=1)

    first, second, third = (Caller(lab, name, "E") for name in ("User1", "User2", "User3"))
    for caller in (first, second):
        for _ in range(3):
            open_one(caller)
    with pytest.raises(PeerBusy, match="all 6 sessions are taken"):
        open_one(third)
    second.close(bytes([3]) * 16)
    with pytest.raises(PeerBusy, match="holds 3 sessions"):
        open_one(first)
    open_one(third)


def test_steps_are_limited_in_rows_and_tokens(lab: Lab) -> None:
    lab.serve("E", 0, 6, limits=PeerLimits(max_batch_rows=2, max_step_tokens=8))
    owner = Caller(lab, "User", "E")
    owner.open()
    for tokens, rows, text in ((1, 3, "at most 2"), (9, 1, "at most 8"), (5, 2, "at most 8")):
        refusal = owner.send(0, 0, states(tokens, rows))
        assert isinstance(refusal, StepFailed)
        assert text in refusal.message
    assert isinstance(owner.send(0, 0, states(4, 2)), Output)


def test_idle_sessions_end(lab: Lab) -> None:
    owner = Caller(lab, "User")
    owner.open()
    lab.do(asyncio.sleep(200.0))
    owner.send(0, 0, states())
    lab.do(asyncio.sleep(200.0))
    assert owner.inspect().length == 3, "it was used meanwhile"
    lab.do(asyncio.sleep(110.0))
    with pytest.raises(SessionLost):
        owner.inspect()


def test_sessions_end_with_the_link_of_their_client(lab: Lab) -> None:
    owner, other = Caller(lab, "User"), Caller(lab, "User2")
    owner.open(tokens=64)
    other.open(OTHER, tokens=64)
    lab.do(owner.link.close("gone"))
    lab.settle()
    assert [session.id for session in lab.peers["A"].service.sessions] == [OTHER]
    assert lab.peers["A"].pool.free_tokens == 192


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"model_uid": "another-checkpoint"}, "exactly the same files"),
        ({"precision": "bfloat16"}, "computes in float32"),
        ({"start": 2, "end": 4}, "serves layers 0:3"),
    ],
)
def test_what_this_peer_does_not_serve_is_refused(lab: Lab, changes: dict[str, Any], text: str) -> None:
    with pytest.raises(PeerIncompatible, match=text):
        Caller(lab, "User").open(**changes)


def test_a_draining_peer_keeps_its_sessions_and_takes_no_new_ones(lab: Lab) -> None:
    owner = Caller(lab, "User")
    owner.open()
    lab.peers["A"].service.drain()
    with pytest.raises(PeerBusy, match="leaving"):
        owner.open(OTHER)
    assert isinstance(owner.send(0, 0, states()), Output)


def test_a_next_hop_that_cannot_be_reached_is_named(lab: Lab) -> None:
    with pytest.raises(NextUnreachable, match="nobody"):
        Caller(lab, "User").open(next=next_hop("nobody"))
    assert lab.peers["A"].pool.free_tokens == 256
