"""The next token of a session that decodes alone: taken without checks only where these would find nothing."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from swarm.peer.hop_session import HopSession
from swarm.shards.next_token import NextToken
from swarm.wire.message import Message
from swarm.wire.step_messages import Output, ReplayInfo, StepFailed
from swarm.wire.tensors import unpack
from tests.callers import OTHER, SESSION, Caller, alone, next_hop, states
from tests.in_process import Lab


@pytest.fixture
def lab() -> Iterator[Lab]:
    with Lab() as lab:
        lab.serve("A", 0, 6)
        yield lab


@pytest.fixture
def awaited_runs(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows with every token that ran as it was awaited."""
    runs: list[int] = []
    run = NextToken.run

    def counted(token: NextToken, hidden: torch.Tensor) -> torch.Tensor:
        runs.append(hidden.shape[1])
        return run(token, hidden)

    monkeypatch.setattr(NextToken, "run", counted)
    return runs


def held_session(lab: Lab, session: bytes = SESSION) -> HopSession:
    """The peer's own."""
    found = lab.peers["A"].service.sessions.find(session)
    assert found is not None
    return found


def decode(owner: Caller, numbers: range, session: bytes = SESSION) -> list[torch.Tensor]:
    """A prompt of three tokens as number 0, then single tokens; what was sent."""
    pieces = [states()] if numbers.start == 0 else []
    if pieces:
        owner.send(0, 0, pieces[0], session=session)
    for number in numbers:
        if number:
            pieces.append(states(1, seed=number))
            assert isinstance(owner.send(number, 2 + number, pieces[-1], session=session), Output)
    return pieces


def test_tokens_that_follow_on_another_are_awaited_and_right(lab: Lab, awaited_runs: list[int]) -> None:
    owner = Caller(lab, "User")
    owner.open(tokens=128)
    pieces = decode(owner, range(90))  # the cache grows by a page
    assert len(awaited_runs) == 88, "all but the prompt and the token after it"
    torch.testing.assert_close(owner.output(), alone(lab, "A", pieces), rtol=1e-4, atol=1e-5)
    session = held_session(lab)
    assert (session.shard.length, session.shard.kept.length, session.promised) == (92, 92, 92)
    assert session.inside.used_bytes == 0
    assert owner.inspect().length == 92


def test_an_awaited_token_for_the_next_hop_goes_there(lab: Lab, awaited_runs: list[int]) -> None:
    owner, neighbour = Caller(lab, "User"), Caller(lab, "neighbour")
    owner.open(end=3, next=next_hop("neighbour", OTHER))
    owner.send(0, 0, states())
    for number in range(1, 6):
        owner.send(number, 2 + number, states(1, seed=number))
    assert len(awaited_runs) == 4
    assert [(m.session, m.number, m.start) for m, _ in neighbour.received] == [  # type: ignore[attr-defined]
        (OTHER, number, 2 + number if number else 0) for number in range(6)
    ]
    assert len(neighbour.received[-1][0].trace) == 1  # type: ignore[attr-defined]


@pytest.mark.parametrize("seed", range(12))
def test_whatever_comes_is_answered_as_if_nothing_were_awaited(
    seed: int, awaited_runs: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = _answers(seed)
    assert awaited_runs, "the script has to come by what is tested"
    monkeypatch.setattr(HopSession, "take_awaited", lambda *_: None)
    expected = _answers(seed)
    assert [answer[0] for answer in found] == [answer[0] for answer in expected]
    for (what, tensors), (_, wanted) in zip(found, expected, strict=True):
        assert tensors.keys() == wanted.keys(), what
        for name, tensor in tensors.items():
            torch.testing.assert_close(tensor, wanted[name], rtol=1e-4, atol=1e-5)


def _answers(seed: int) -> list[tuple[Any, dict[str, torch.Tensor]]]:
    """What a peer answers to a script of steps, most of them the next token."""
    dice = random.Random(seed)
    with Lab() as lab:
        lab.serve("A", 0, 6)
        owner, stranger = Caller(lab, "User"), Caller(lab, "stranger")
        owner.open(tokens=48)
        for number in range(60):
            kind = dice.choice(["next"] * 12 + _OTHERS)
            caller = stranger if kind == "stranger" else owner
            held = lab.peers["A"].service.sessions.find(SESSION)
            length = 0 if held is None else held.shard.length
            caller.send(**_step(kind, number, length, dice))
        return [_told(message, payload) for message, payload in owner.received + stranger.received]


_OTHERS = ["several", "again", "back", "gap", "mask", "positions", "name", "dtype", "wide", "rows", "order"]
_OTHERS += ["replay", "stranger", "prompt", "keep", "late"]


def _step(kind: str, number: int, length: int, dice: random.Random) -> dict[str, Any]:
    """One step; `kind` says in what it differs from the next token."""
    step: dict[str, Any] = {"number": number, "start": length, "states": states(1, seed=number)}
    usual = step["states"]
    changes: dict[str, dict[str, Any]] = {
        "several": {"states": states(3, seed=number)},
        "again": {"number": max(number - 1, 0), "start": max(length - 1, 0)},
        "back": {"start": dice.randint(0, max(length - 1, 0))},
        "gap": {"start": length + 2},
        "mask": {"tensors": {"mask": torch.ones(1, 1, dtype=torch.bool)}},
        "positions": {"tensors": {"positions": torch.tensor([[length + 1]])}},
        "name": {"tensors": {"carry.0": usual}},
        "dtype": {"states": usual.double().to(torch.bfloat16)},
        "wide": {"states": torch.zeros(1, 1, usual.shape[2] * 2)},
        "rows": {"states": states(1, rows=2, seed=number)},
        "order": {"select_rows": [dice.randint(0, 1)]},
        "late": {"number": max(number - 4, 0)},
        "replay": {"replay": ReplayInfo(until=9, last=False)},
        "prompt": {"start": 0, "states": states(5, seed=number)},
        "keep": {"keep_last": 1},
    }
    return step | changes.get(kind, {})


def _told(message: Message, payload: bytearray) -> tuple[Any, dict[str, torch.Tensor]]:
    if isinstance(message, StepFailed):
        return (message.number, message.kind, message.message), {}
    assert isinstance(message, Output)
    return (message.number, message.start, message.tensors), unpack(message.tensors, payload)


def test_an_awaited_token_takes_no_cache_that_is_not_there() -> None:
    with Lab() as lab:
        lab.serve("A", 0, 6, cache_tokens=64)
        owner = Caller(lab, "User")
        owner.open(tokens=60)
        decode(owner, range(62))
        refusal = owner.send(62, 64, states(1))
        assert isinstance(refusal, StepFailed)
        assert (refusal.kind, "no free cache" in refusal.message) == ("busy", True)


def test_a_failure_of_an_awaited_token_ends_its_session(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> torch.Tensor:
        raise RuntimeError("the layers broke")

    owner = Caller(lab, "User")
    owner.open()
    decode(owner, range(3))
    for runs in ("span_run.SpanRun.run_foreseen", "rehearsal.settle"):  # without and with a C compiler
        monkeypatch.setattr(f"swarm.shards.{runs}", fail)
    failure = owner.send(3, 5, states(1))
    assert isinstance(failure, StepFailed)
    assert (failure.kind, failure.number) == ("internal", 3)
    assert lab.peers["A"].service.sessions.find(SESSION) is None
    assert lab.peers["A"].pool.free_tokens == lab.peers["A"].pool.total_tokens


def test_the_output_of_an_awaited_token_waits_for_those_in_front(lab: Lab, awaited_runs: list[int]) -> None:
    owner = Caller(lab, "User")
    owner.open()
    decode(owner, range(3))
    session, before = held_session(lab), len(owner.received)
    lab.do(session.leaving.acquire())
    assert owner.send(3, 5, states(1, seed=3)) is None
    assert len(awaited_runs) == 2
    session.leaving.release()
    lab.settle()
    assert [type(message) for message, _ in owner.received[before:]] == [Output]
    assert session.inside.used_bytes == 0
    assert isinstance(owner.send(4, 6, states(1, seed=4)), Output)


def test_nothing_is_awaited_beside_another_session_that_decodes(lab: Lab, awaited_runs: list[int]) -> None:
    owner, other = Caller(lab, "User"), Caller(lab, "User2")
    owner.open()
    other.open(OTHER)
    decode(owner, range(3))
    ran = len(awaited_runs)
    decode(other, range(3), OTHER)
    pieces = decode(owner, range(3, 6))
    assert len(awaited_runs) == ran
    assert len(pieces) == 3
    other.close(OTHER)
    decode(owner, range(6, 9))
    assert len(awaited_runs) > ran
