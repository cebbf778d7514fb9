"""Tokens that compiled layers were made ready for together: the same as one by one, whatever happens in between."""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import cache

import pytest
import torch

from swarm.core.span import Span
from swarm.shards.ahead import TokenMemory
from swarm.shards.batch import apply_batch
from swarm.shards.recording import compile_layers
from swarm.shards.rehearsal import Recording
from swarm.shards.session import ShardSession
from swarm.shards.shard import Shard
from swarm.shards.span_run import NotedRows, SpanRun
from swarm.shards.step import Step, StepTensors
from tests.shard_lab import CPU, source_of

pytestmark = pytest.mark.slow


@cache
def compiled(model_type: str) -> tuple[Shard, Recording]:
    shard = Shard.load(source_of(model_type), Span(1, 4), dtype=torch.float32, device=CPU)
    maker = compile_layers(shard)
    shard.__dict__["recorders"] = (maker, maker)
    return shard, maker(shard.span)


def twins(shard: Shard) -> tuple[ShardSession, ShardSession]:
    return shard.open(shard.span, rollback=True), shard.open(shard.span, rollback=True)


def states(shard: Shard, tokens: int = 1, rows: int = 1) -> StepTensors:
    return StepTensors(torch.randn(rows, tokens, shard.hidden_size))


def assert_same(usual: ShardSession, other: ShardSession) -> None:
    assert (other.length, other.last_step, other.rows) == (usual.length, usual.last_step, usual.rows)
    for mine, theirs in zip(other.cache.owned, usual.cache.owned, strict=True):
        torch.testing.assert_close(mine.keys, theirs.keys, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(mine.values, theirs.values, rtol=1e-4, atol=1e-4)
    if usual.length:
        kept, wanted = (session.kept.slice(0, session.length).hidden for session in (other, usual))
        torch.testing.assert_close(kept, wanted, rtol=1e-4, atol=1e-4)


def run_awaited(session: ShardSession, step: Step, recording: Recording) -> torch.Tensor:
    """As a peer does it where a session decodes alone."""
    memory = TokenMemory(
        torch.empty(1, 1, session.shard.hidden_size), torch.empty(1, 1, session.shard.hidden_size)
    )
    session.next.prepare(recording, memory)
    assert session.next.is_ready(step.start)
    memory.hidden.copy_(step.tensors.hidden)
    output = session.next.run(memory.hidden)
    assert output is memory.output
    session.next.finish(step.number, StepTensors(output))
    return output


@pytest.fixture
def noted(monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
    """The positions that stacks were asked about, call by call."""
    found: list[list[int]] = []
    note_rows: Callable[..., NotedRows] = SpanRun.note_rows

    def counted(run: SpanRun, positions: range, caches: object) -> NotedRows:
        found.append(list(positions))
        return note_rows(run, positions, caches)

    monkeypatch.setattr(SpanRun, "note_rows", counted)
    return found


def test_a_stack_is_asked_about_many_positions_at_once(noted: list[list[int]]) -> None:
    shard, recording = compiled("llama")
    usual, ahead = twins(shard)
    torch.manual_seed(0)
    noted.clear()
    for number, tokens in enumerate([5, *[1] * 50]):
        step = Step(number, usual.length, states(shard, tokens))
        found = run_awaited(ahead, step, recording) if number else ahead.apply(step).hidden
        torch.testing.assert_close(found, usual.apply(step).hidden, rtol=1e-4, atol=1e-4)
    assert [positions[0] for positions in noted] == [5, 21, 37, 53]
    assert all(len(positions) == 16 for positions in noted)
    assert_same(usual, ahead)


def test_no_position_is_asked_about_that_a_model_does_not_have(noted: list[list[int]]) -> None:
    shard, recording = compiled("gpt2")
    limit = shard.traits.position_limit
    assert limit is not None
    usual, ahead = twins(shard)
    torch.manual_seed(1)
    for number, tokens in enumerate([limit - 5, *[1] * 5]):
        step = Step(number, usual.length, states(shard, tokens))
        found = run_awaited(ahead, step, recording) if number else ahead.apply(step).hidden
        torch.testing.assert_close(found, usual.apply(step).hidden, rtol=1e-4, atol=1e-4)
    assert noted[-1] == list(range(limit - 5, limit))
    ahead.next.prepare(recording)
    assert not ahead.next.is_ready(limit)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("model_type", ["llama", "gpt2"])
def test_whatever_comes_in_between_changes_nothing(model_type: str, seed: int) -> None:
    """Above all what brings a session back to a length for which something was ready."""
    shard, recording = compiled(model_type)
    dice = random.Random(seed)
    torch.manual_seed(seed)
    (usual, ahead), (usual_other, other) = twins(shard), twins(shard)
    for mine, its in ((usual, ahead), (usual_other, other)):
        step = Step(0, 0, states(shard, 3))
        torch.testing.assert_close(its.apply(step).hidden, mine.apply(step).hidden, rtol=1e-4, atol=1e-4)
    for number in range(1, 120):
        kind = dice.choice(
            ["awaited"] * 8
            + ["prepared", "twice", "back", "same length", "batch", "doubled", "new", "replaced"]
        )
        if kind == "awaited":
            step = Step(number, usual.length, states(shard))
            found = run_awaited(ahead, step, recording)
        elif kind == "batch":
            step = Step(number, usual.length, states(shard))
            beside = Step(number, usual_other.length, states(shard))
            first, second = apply_batch([(ahead, step), (other, beside)])
            assert isinstance(first, StepTensors)
            assert isinstance(second, StepTensors)
            found = first.hidden
            torch.testing.assert_close(second.hidden, usual_other.apply(beside).hidden, rtol=1e-4, atol=1e-4)
        else:
            step = another_step(kind, usual, number, dice)
            for _ in range(2 if kind == "twice" else dice.randint(0, 1)):
                ahead.next.prepare(recording)
            found = ahead.apply(step).hidden
            if kind == "doubled":  # and back to one row
                torch.testing.assert_close(found, usual.apply(step).hidden, rtol=1e-4, atol=1e-4)
                step = Step(number, usual.length, states(shard), select_rows=(1,))
                found = ahead.apply(step).hidden
        torch.testing.assert_close(found, usual.apply(step).hidden, rtol=1e-4, atol=1e-4)
    assert_same(usual, ahead)
    assert_same(usual_other, other)


def another_step(kind: str, session: ShardSession, number: int, dice: random.Random) -> Step:
    length, shard = session.length, session.shard
    if kind == "back":
        return Step(number, dice.randint(1, length), states(shard, dice.randint(1, 3)))
    if kind == "same length":  # the last token once more
        return Step(number, length - 1, states(shard))
    if kind == "replaced":  # all of it, by as much
        return Step(number, 0, states(shard, length))
    if kind == "new":
        return Step(number, 0, states(shard, dice.randint(1, 70)))
    if kind == "doubled":
        return Step(number, length, states(shard, rows=2), select_rows=(0, 0))
    return Step(number, length, states(shard))
