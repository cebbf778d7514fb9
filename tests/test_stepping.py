"""The way of a step through a peer, with everything that may happen while it is under way."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from msgspec.structs import replace

from swarm.core.errors import PeerBusy, SessionLost
from swarm.shards.session import ShardSession
from swarm.shards.step import Step, StepTensors
from swarm.wire.control_messages import Done, Relink, Replay
from swarm.wire.step_messages import Output, Replayed, StepFailed, StepMessage
from tests.callers import OTHER, SESSION, Caller, alone, next_hop, states
from tests.in_process import Lab

REPLAY = Replay(request=0, session=SESSION, until=6, chunk=1)


@pytest.fixture
def lab() -> Iterator[Lab]:
    with Lab() as lab:
        lab.serve("A", 0, 3, cache_tokens=8192)
        lab.serve("B", 3, 6)
        yield lab


def test_a_session_closed_while_its_step_runs_answers_nothing_and_frees_everything(lab: Lab) -> None:
    owner, device = Caller(lab, "User"), lab.peers["A"].executor
    owner.open()
    device.held = True
    for number in range(3):
        owner.send(number, number, states(1))
    owner.close()
    assert lab.peers["A"].pool.free_tokens == 8192
    device.release()
    lab.settle()
    assert owner.received == []
    owner.open(OTHER)
    assert isinstance(owner.send(0, 0, states(), session=OTHER), Output)


def test_outputs_go_to_where_the_session_is_linked_when_they_leave(lab: Lab) -> None:
    owner, neighbour, device = Caller(lab, "User"), Caller(lab, "neighbour"), lab.peers["A"].executor
    owner.open(next=next_hop("neighbour", OTHER))
    device.held = True
    owner.send(0, 0, states())
    owner.relink(None)
    device.release()
    lab.settle()
    assert torch.equal(owner.output(), alone(lab, "A", [states()]))
    assert neighbour.received == []


def test_the_client_is_told_at_once_when_the_link_to_its_next_hop_ends(lab: Lab) -> None:
    owner, _ = Caller(lab, "User"), Caller(lab, "neighbour")
    owner.open(next=next_hop("neighbour", OTHER))
    owner.send(0, 0, states())
    lab.do(lab.meadow.kill("neighbour"))
    lab.settle()
    report = owner.received[-1][0]
    assert isinstance(report, StepFailed)
    assert (report.kind, report.peer, report.session) == ("next_unreachable", "neighbour", SESSION)


def test_a_failure_of_the_next_hop_reaches_the_client_and_only_from_there(lab: Lab) -> None:
    owner, neighbour, stranger = (Caller(lab, name) for name in ("User", "neighbour", "Stranger"))
    owner.open(next=next_hop("neighbour", OTHER))
    failure = StepFailed(session=OTHER, number=0, kind="busy", message="full")
    stranger.send_message(failure, ())
    assert owner.received == []
    neighbour.send_message(failure, ())
    assert [m for m, _ in owner.received] == [replace(failure, session=SESSION, peer="neighbour")]


def test_a_replay_sends_what_was_kept_and_the_last_one_reports(lab: Lab) -> None:
    owner, at_b = Caller(lab, "User"), Caller(lab, "User", "B")
    at_b.received = owner.received
    owner.open()
    owner.send(0, 0, states(5))
    at_b.open(OTHER, previous="A")
    owner.relink(next_hop("B", OTHER))
    assert owner.replay(chunk=2).length == 5
    lab.settle()
    reports = [m for m, _ in at_b.received if isinstance(m, Replayed)]
    assert [(r.length, r.step) for r in reports] == [(5, 0)]


def test_a_session_that_goes_on_while_it_is_replayed_says_so(lab: Lab) -> None:
    owner, device = Caller(lab, "User"), lab.peers["A"].executor
    Caller(lab, "neighbour")
    owner.open(next=next_hop("neighbour", OTHER))
    owner.send(0, 0, states(5))
    device.held = True
    replaying = owner.start(REPLAY)
    lab.settle()
    owner.send(1, 2, states(1))
    device.release()
    error = lab.do(replaying)
    assert isinstance(error, PeerBusy)  # the client tries again
    assert "went on while it was replayed" in str(error)


def test_a_replay_of_a_session_that_is_closed_meanwhile_ends(lab: Lab) -> None:
    owner, device = Caller(lab, "User"), lab.peers["A"].executor
    Caller(lab, "neighbour")
    owner.open(next=next_hop("neighbour", OTHER))
    owner.send(0, 0, states(5))
    device.held = True
    owner.send(1, 5, states(1))
    replaying = owner.start(REPLAY)
    lab.settle()
    owner.close()
    device.release()
    assert isinstance(lab.do(replaying), SessionLost)


def test_one_control_message_at_a_time_dials_for_a_session(lab: Lab) -> None:
    owner = Caller(lab, "User")
    owner.open()
    link, relink = owner.link, Relink(request=0, session=SESSION, next=next_hop("B"))

    async def both() -> list[Any]:
        requests = (link.request(relink, 9.0), link.request(relink, 9.0))
        return list(await asyncio.gather(*requests, return_exceptions=True))

    assert [type(result) for result in lab.do(both())] == [Done, PeerBusy]


class _Failing(ShardSession):
    """Fails inside of the layers."""

    error: BaseException

    def apply(self, step: Step) -> StepTensors:
        raise self.error


@pytest.mark.parametrize(
    ("error", "kind", "text"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"), "busy", "--cache-tokens"),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"), "busy", "--cache-tokens"),
        (MemoryError(), "busy", "--cache-tokens"),
        (RuntimeError("shapes do not match\nlong story"), "internal", "RuntimeError: shapes do not match"),
        (KeyError(), "internal", "KeyError: no reason given"),
    ],
    ids=["cuda", "cpu", "python", "shapes", "key"],
)
def test_a_step_that_fails_in_the_layers_ends_its_session_and_nothing_else(
    lab: Lab, error: BaseException, kind: str, text: str
) -> None:
    owner, other = Caller(lab, "User"), Caller(lab, "User2")
    owner.open()
    other.open(OTHER)
    session = next(s for s in lab.peers["A"].service.sessions if s.id == SESSION)
    session.shard.__class__ = _Failing
    session.shard.error = error  # type: ignore[attr-defined]
    failure = owner.send(0, 0, states())
    assert isinstance(failure, StepFailed)
    assert (failure.kind, text in failure.message, "\n" in failure.message) == (kind, True, False)
    with pytest.raises(SessionLost):
        owner.inspect()
    assert isinstance(other.send(0, 0, states(), session=OTHER), Output)


def test_a_trace_that_is_full_already_stays_within_its_bound(lab: Lab) -> None:
    owner = Caller(lab, "User")
    owner.open()
    trace = [{"peer": "User", "queue_s": 0.0, "compute_s": 0.0}] * 512
    answer = owner.send(0, 0, states(), trace=trace)
    assert isinstance(answer, Output)
    assert len(answer.trace) == 512
    assert answer.trace[-1].peer == "A"


def test_a_client_that_does_not_read_is_cut_off_and_others_are_served_meanwhile(lab: Lab) -> None:
    owner, other = Caller(lab, "User"), Caller(lab, "User2")
    owner.open()
    other.open(OTHER)
    at_peer = next(link for link in lab.peers["A"].node.links() if link.peer_id == "User")
    owner.link._stream.pause()
    big = states(64, rows=64)
    session = next(s for s in lab.peers["A"].service.sessions if s.id == SESSION)
    for number in range(6):
        owner.send(number, 0, big)
    assert isinstance(other.send(0, 0, states(), session=OTHER), Output)
    lab.do(asyncio.sleep(90.0))
    assert at_peer.closed
    assert session.inside.used_bytes == 0
    assert isinstance(other.send(1, 3, states(1), session=OTHER), Output)


def test_outputs_of_pieces_that_come_in_during_a_replay_leave_behind_it(lab: Lab) -> None:
    """As after a death in the middle of a long prompt: pieces are still on their way from the hop before."""
    owner, neighbour, device = Caller(lab, "User"), Caller(lab, "neighbour"), lab.peers["A"].executor
    owner.open(next=next_hop("neighbour", OTHER))
    owner.send(0, 0, states(4))
    neighbour.received.clear()
    device.held = True
    replaying = owner.start(REPLAY)
    lab.settle()
    owner.send(0, 4, states(2))
    device.release()
    assert lab.do(replaying).length == 4
    lab.settle()
    sent = [(m.start, m.replay is not None) for m, _ in neighbour.received if isinstance(m, StepMessage)]
    assert sent == [(0, True), (1, True), (2, True), (3, True), (4, False)]


def test_a_step_beyond_what_is_cached_is_told_apart_from_one_that_can_never_work(lab: Lab) -> None:
    owner = Caller(lab, "User")
    owner.open()
    owner.send(0, 0, states(4))
    refusal = owner.send(1, 5, states(1))
    assert isinstance(refusal, StepFailed)
    assert (refusal.kind, refusal.message) == ("behind", "step starts at position 5, but only 4 are cached")
    owner.send(2, 1, states(1))
    refusal = owner.send(3, 4, states(1))
    assert isinstance(refusal, StepFailed)
    assert refusal.message == "step starts at position 4, but only 2 are cached", "after the roll-back"
