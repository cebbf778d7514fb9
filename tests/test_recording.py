"""Recorded decode steps give what the layers' own code gives, or there are none."""

from __future__ import annotations

import itertools
from functools import partial
from typing import Any

import pytest
import torch

from swarm.core.span import Span
from swarm.shards.foreign_code import CANNOT_TRY
from swarm.shards.recording import record
from swarm.shards.recording_trial import deviation, try_compiling, try_recording
from swarm.shards.rehearsal import Rehearsed
from swarm.shards.self_check import tolerance_of
from swarm.shards.shard import MOST_RECORDINGS, Shard
from swarm.shards.step import Step, StepTensors
from tests.shard_lab import CPU, source_of

pytestmark = pytest.mark.slow
RECORDED = ["llama", "qwen2", "qwen3", "olmo2", "granite", "stablelm", "gpt2", "opt"]
CHOOSES_EXPERTS = ["mixtral", "qwen3_moe"]


def shard_of(model_type: str, start: int = 1, end: int = 4) -> Shard:
    return Shard.load(source_of(model_type), Span(start, end), dtype=torch.float32, device=CPU)


def states(shard: Shard, tokens: int) -> StepTensors:
    return StepTensors(torch.randn(1, tokens, shard.hidden_size))


def assert_close(found: StepTensors, expected: StepTensors) -> None:
    torch.testing.assert_close(found.hidden, expected.hidden, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("model_type", RECORDED)
def test_long_decoding_is_the_same(model_type: str) -> None:
    """Over pages that are full, with steps in between that come otherwise than expected."""
    shard = shard_of(model_type)
    assert shard.looks_ahead
    assert shard.batching == "flat"
    recording = record(shard, shard.span)
    usual, recorded = (shard.open(shard.span, rollback=True) for _ in range(2))
    torch.manual_seed(0)
    position = replayed = 0
    for number in range(140):
        tokens = 3 if number % 50 == 0 else 1
        position -= 5 if number % 60 == 59 else 0
        step = Step(number, position, states(shard, tokens))
        if number:
            recorded.next.prepare(recording)
            replayed += isinstance(recorded.next.foreseen, Rehearsed)
        assert_close(recorded.apply(step), usual.apply(step))
        position += tokens
    assert replayed == 139
    assert recorded.nbytes == usual.nbytes
    assert torch.equal(recorded.cache.owned[0].keys, usual.cache.owned[0].keys)


@pytest.mark.parametrize("model_type", CHOOSES_EXPERTS)
def test_layers_whose_values_decide_are_not_recorded_wrongly(model_type: str) -> None:
    shard = shard_of(model_type)
    try:
        recording = record(shard, shard.span)
    except CANNOT_TRY:
        assert try_compiling(shard) is None
        assert try_recording(shard, None) is None
        return
    usual, recorded = (shard.open(shard.span, rollback=True) for _ in range(2))
    torch.manual_seed(0)
    for position in range(40):
        step = Step(position, position, states(shard, 1))
        if position:
            recorded.next.prepare(recording)
        assert_close(recorded.apply(step), usual.apply(step))


def test_a_branch_on_a_value_is_refused() -> None:
    shard = shard_of("llama")
    layer: Any = shard.window[2]

    def look(module: object, inputs: tuple[Any, ...], output: torch.Tensor) -> torch.Tensor:
        return output * 2 if float(output.sum()) > 0 else output

    layer.register_forward_hook(look)
    with pytest.raises(RuntimeError, match="values decide"):
        record(shard, shard.span)
    assert try_compiling(shard) is None
    assert try_recording(shard, None) is None


def test_sliding_windows_are_not_recorded() -> None:
    shard = shard_of("mistral")
    assert try_compiling(shard) is None
    assert try_recording(shard, None) is None


def test_what_changes_from_call_to_call_is_found_out() -> None:
    shard = shard_of("llama")
    assert deviation(shard, record(shard, shard.span), 1) <= tolerance_of(shard)
    calls = itertools.count(1)
    layer: Any = shard.window[2]
    layer.register_forward_hook(lambda module, inputs, output: output * next(calls))
    assert deviation(shard, record(shard, shard.span), 1) > tolerance_of(shard)


def test_parts_of_a_span_are_recorded_when_they_are_first_used_but_not_without_end() -> None:
    shard = shard_of("llama", 0, 5)
    shard.__dict__["recorders"] = (partial(record, shard), None)
    spans = [Span(start, end) for start in range(5) for end in range(start + 1, 6)]
    found = [shard.recording(span) for span in spans]
    assert [recording is not None for recording in found] == [True] * MOST_RECORDINGS + [False] * 7
    assert shard.recording(spans[0]) is found[0]
    session = shard.open(spans[1], rollback=False)
    usual = shard.open(spans[1], rollback=False)
    for position in range(4):
        step = Step(position, position, states(shard, 1))
        if position:
            session.next.prepare(shard.recording(spans[1]))
        assert_close(session.apply(step), usual.apply(step))


def test_a_session_goes_on_without_its_recording_when_rows_or_padding_come() -> None:
    shard = shard_of("llama")
    recording = record(shard, shard.span)
    usual, recorded = (shard.open(shard.span, rollback=True) for _ in range(2))
    torch.manual_seed(0)
    padded = StepTensors(states(shard, 1).hidden, mask=torch.tensor([[False]]))
    doubled = StepTensors(torch.randn(2, 1, shard.hidden_size))
    script = [
        Step(0, 0, states(shard, 3)),
        Step(1, 3, states(shard, 1)),
        Step(2, 4, doubled, select_rows=(0, 0)),
        Step(3, 5, states(shard, 1), select_rows=(1,)),
        Step(4, 6, states(shard, 1)),
        Step(5, 7, padded),
        Step(6, 8, states(shard, 1)),
    ]
    for step in script:
        if step.number:
            recorded.next.prepare(recording)
        assert_close(recorded.apply(step), usual.apply(step))
