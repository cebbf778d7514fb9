"""Prefixes as messages: what a peer keeps at `Close`, and what it says at `Open`."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from swarm.core.prefix_index import BLOCK_TOKENS
from swarm.wire.control_messages import Close, Done
from swarm.wire.step_messages import Output, Replayed
from tests.callers import OTHER, SESSION, Caller, alone, next_hop, states
from tests.in_process import Lab

CHAIN = [bytes([i]) * 16 for i in range(256 // BLOCK_TOKENS)]
PAST = states(150)


@pytest.fixture
def lab() -> Iterator[Lab]:
    with Lab() as lab:
        lab.serve("A", 0, 3)
        lab.serve("B", 3, 6)
        yield lab


def leave(caller: Caller, session: bytes = SESSION, **changes: Any) -> Done:
    """Feed a session with the past and end it so that it is kept."""
    caller.open(session, tokens=512, **changes)
    caller.send(0, 0, PAST, session)
    return caller.ask(Close(request=0, session=session, prefix=CHAIN[: 128 // BLOCK_TOKENS]))


def test_a_session_begins_with_the_kept_blocks_and_goes_on_exactly(lab: Lab) -> None:
    caller = Caller(lab, "User")
    leave(caller)
    assert caller.open(tokens=512, prefix=CHAIN).length == 128
    caller.send(0, 128, PAST[:, 128:])
    assert torch.allclose(caller.output(), alone(lab, "A", [PAST])[:, 128:], atol=1e-5)


def test_what_begins_is_a_copy(lab: Lab) -> None:
    caller = Caller(lab, "User")
    leave(caller)
    for session in (SESSION, OTHER):
        assert caller.open(session, tokens=512, prefix=CHAIN).length == 128
        caller.send(0, 64, states(100, seed=9), session)
        caller.send(1, 164, states(1), session)
        lab.do(asyncio.sleep(1.0))  # a peer may wait a moment for sessions to batch
    starts = [message.start for message, _ in caller.received if isinstance(message, Output)]
    assert starts == [0, 64, 164, 64, 164]
    caller.close()
    caller.close(OTHER)
    assert caller.open(tokens=512, prefix=CHAIN).length == 128
    caller.send(0, 128, PAST[:, 128:])
    assert torch.allclose(caller.output(), alone(lab, "A", [PAST])[:, 128:], atol=1e-5)


def test_nobody_else_and_no_other_layers_begin_with_it(lab: Lab) -> None:
    caller, stranger = Caller(lab, "User"), Caller(lab, "Stranger")
    leave(caller)
    assert stranger.open(tokens=512, prefix=CHAIN).length == 0
    assert caller.open(OTHER, tokens=512, prefix=CHAIN, end=2).length == 0


def test_no_more_is_taken_than_there_was_room_asked_for(lab: Lab) -> None:
    caller = Caller(lab, "User")
    leave(caller)
    assert caller.open(tokens=100, prefix=CHAIN).length == 100 // BLOCK_TOKENS * BLOCK_TOKENS


def test_a_session_with_a_step_that_has_not_run_is_not_kept(lab: Lab) -> None:
    caller, peer = Caller(lab, "User"), lab.peers["A"]
    caller.open(tokens=512)
    caller.send(0, 0, PAST)
    peer.executor.held = True
    caller.send(1, 100, states(3))
    caller.ask(Close(request=0, session=SESSION, prefix=CHAIN[:1]))
    peer.executor.release()
    lab.settle()
    assert len(peer.service.sessions.prefixes) == 0
    assert peer.pool.free_tokens == peer.pool.total_tokens


def test_several_rows_are_not_kept(lab: Lab) -> None:
    caller = Caller(lab, "User")
    caller.open(tokens=512)
    caller.send(0, 0, states(80, rows=2))
    caller.ask(Close(request=0, session=SESSION, prefix=CHAIN[:1]))
    assert len(lab.peers["A"].service.sessions.prefixes) == 0


def test_what_a_session_began_with_is_replayed_before_its_first_step(lab: Lab) -> None:
    caller, behind = Caller(lab, "User"), Caller(lab, "Behind", "B")
    leave(caller)
    behind.open(tokens=512, previous="A")
    caller.open(tokens=512, prefix=CHAIN, next=next_hop("B"))
    assert caller.replay().length == 128
    lab.settle()
    message, _ = behind.received[-1]
    assert isinstance(message, Replayed)
    assert message.length == 128
