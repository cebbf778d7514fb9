"""Compiled layers give what the layers' own code gives, for one session and for many, or are not used."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any

import pytest
import torch

from swarm.core.span import Span
from swarm.shards import batch, compiled
from swarm.shards.batch import apply_batch
from swarm.shards.compiled_layers import CompiledLayers, CompiledProgram
from swarm.shards.recording import Maker, compile_layers
from swarm.shards.recording_trial import try_compiling, try_recording, try_rows
from swarm.shards.rehearsal import Recording, Rehearsed
from swarm.shards.row_run import run_rows
from swarm.shards.session import ShardSession
from swarm.shards.shard import Shard
from swarm.shards.step import Step, StepTensors
from swarm.shards.translation import Translation
from tests.shard_lab import CPU, source_of

pytestmark = pytest.mark.slow
COMPILED = [
    *("llama", "qwen2", "qwen3", "olmo2", "granite", "stablelm", "gpt2", "opt", "phi", "gpt_neox", "gemma"),
    *("cohere", "glm", "olmo", "persimmon", "smollm3"),
]
NOT_COMPILED = ["mistral", "mixtral", "gemma2", "qwen3_moe", "bloom", "falcon"]


@cache
def shard_of(model_type: str) -> Shard:
    """Three layers, whose steps of several sessions and of one run compiled."""
    shard = fresh(model_type)
    maker = compile_layers(shard)
    shard.__dict__["recorders"] = (maker, maker)
    return shard


def fresh(model_type: str) -> Shard:
    return Shard.load(source_of(model_type), Span(1, 4), dtype=torch.float32, device=CPU)


def next_step(session: ShardSession, tokens: int = 1, start: int | None = None) -> Step:
    states = torch.randn(1, tokens, session.shard.hidden_size)
    return Step(session.last_step + 1, session.length if start is None else start, StepTensors(states))


def assert_close(found: StepTensors, expected: StepTensors) -> None:
    torch.testing.assert_close(found.hidden, expected.hidden, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("model_type", COMPILED)
def test_long_decoding_is_the_same(model_type: str) -> None:
    """Over pages that are full, with steps in between that come otherwise than expected."""
    shard = shard_of(model_type)
    recording = shard.recording(shard.span)
    assert recording is not None
    assert isinstance(recording.program, CompiledProgram)
    usual, compiled_one = (shard.open(shard.span, rollback=True) for _ in range(2))
    torch.manual_seed(0)
    ready = 0
    for number in range(140):
        back = 5 if number % 60 == 59 else 0
        step = next_step(usual, 3 if number % 50 == 0 else 1, usual.length - back)
        if number:
            compiled_one.next.prepare(recording)
            ready += isinstance(compiled_one.next.foreseen, Rehearsed)
        assert_close(compiled_one.apply(step), usual.apply(step))
    assert ready == 139
    assert compiled_one.nbytes == usual.nbytes
    assert_equal_caches(usual, compiled_one)


def assert_equal_caches(usual: ShardSession, other: ShardSession) -> None:
    for mine, theirs in zip(other.cache.owned, usual.cache.owned, strict=True):
        torch.testing.assert_close(mine.keys, theirs.keys, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(mine.values, theirs.values, rtol=1e-4, atol=1e-4)


class Spy:
    """Counts the batches that ran compiled."""

    def __init__(self) -> None:
        self.sizes: list[int] = []

    def __call__(self, items: Sequence[Any], recording: Recording) -> list[StepTensors] | None:
        found = run_rows(items, recording)
        if found is not None:
            self.sizes.append(len(found))
        return found


@pytest.fixture
def spy(monkeypatch: pytest.MonkeyPatch) -> Spy:
    found = Spy()
    monkeypatch.setattr(batch, "run_rows", found)
    return found


@pytest.mark.parametrize("model_type", COMPILED)
def test_sessions_in_one_batch_get_what_each_would_get_alone(spy: Spy, model_type: str) -> None:
    """Pasts of different lengths, one of which grows by a page; groups change, and prompts come in between."""
    shard = shard_of(model_type)
    pairs = [tuple(shard.open(shard.span, rollback=True) for _ in range(2)) for _ in range(5)]
    torch.manual_seed(1)
    for tokens, (usual, joint) in zip((1, 7, 61, 30, 3), pairs, strict=True):
        step = next_step(usual, tokens)
        assert_close(joint.apply(step), usual.apply(step))
    for turn in range(12):
        group = [pair for place, pair in enumerate(pairs) if turn % 4 == 0 or (turn + place) % 3]
        steps = [
            next_step(usual, 2 if turn == 6 and place == 0 else 1) for place, (usual, _) in enumerate(group)
        ]
        found = apply_batch([(joint, step) for (_, joint), step in zip(group, steps, strict=True)])
        for (usual, _), step, output in zip(group, steps, found, strict=True):
            assert isinstance(output, StepTensors), output
            assert_close(output, usual.apply(step))
    assert len(spy.sizes) == 11  # all but the one with two tokens of a prompt
    assert set(spy.sizes) >= {3, 4, 5}
    for usual, joint in pairs:
        assert_equal_caches(usual, joint)


@pytest.mark.parametrize("model_type", ["llama", "gpt2"])
def test_companions_change_no_bit(model_type: str) -> None:
    shard = shard_of(model_type)
    torch.manual_seed(2)
    prompts = [StepTensors(torch.randn(1, 4 + 3 * place, shard.hidden_size)) for place in range(5)]
    tokens = [StepTensors(torch.randn(1, 1, shard.hidden_size)) for _ in range(5)]
    found: dict[tuple[int, ...], torch.Tensor] = {}
    for group in ((0, 1), (2, 0), (0, 1, 2, 3, 4), (4, 3, 0)):
        sessions = [shard.open(shard.span, rollback=False) for _ in group]
        for session, place in zip(sessions, group, strict=True):
            session.apply(Step(0, 0, prompts[place]))
        steps = [
            Step(1, session.length, tokens[place]) for session, place in zip(sessions, group, strict=True)
        ]
        outputs = apply_batch(list(zip(sessions, steps, strict=True)))
        output = outputs[group.index(0)]
        assert isinstance(output, StepTensors)
        found[group] = output.hidden
    assert all(torch.equal(states, found[0, 1]) for states in found.values())


def test_rows_that_are_padded_or_several_run_as_ever(spy: Spy) -> None:
    shard = shard_of("llama")
    torch.manual_seed(3)
    sessions = [tuple(shard.open(shard.span, rollback=True) for _ in range(2)) for _ in range(3)]
    mask = torch.tensor([[False, True, True]])
    prompts = [
        StepTensors(torch.randn(1, 3, 32), mask=mask, positions=torch.tensor([[0, 0, 1]])),
        StepTensors(torch.randn(2, 3, 32)),
        StepTensors(torch.randn(1, 3, 32)),
    ]
    for (usual, joint), prompt in zip(sessions, prompts, strict=True):
        assert_close(joint.apply(Step(0, 0, prompt)), usual.apply(Step(0, 0, prompt)))
    tokens = [
        StepTensors(torch.randn(1, 1, 32), positions=torch.tensor([[2]])),
        StepTensors(torch.randn(2, 1, 32)),
        StepTensors(torch.randn(1, 1, 32)),
    ]
    steps = [Step(1, 3, tensors) for tensors in tokens]
    found = apply_batch([(joint, step) for (_, joint), step in zip(sessions, steps, strict=True)])
    for (usual, _), step, output in zip(sessions, steps, found, strict=True):
        assert isinstance(output, StepTensors), output
        assert_close(output, usual.apply(step))
    assert spy.sizes == []


@pytest.mark.parametrize("model_type", ["llama", "gpt2", "glm"])
def test_they_pass_their_own_trial(model_type: str) -> None:
    assert try_compiling(fresh(model_type)) is not None


@pytest.mark.parametrize("model_type", NOT_COMPILED)
def test_other_layers_are_not_compiled(model_type: str) -> None:
    shard = fresh(model_type)
    assert try_compiling(shard) is None
    assert shard.rows_recording(shard.span) is None


def wrong(shard: Shard) -> Maker:
    """Compiled layers of which one has lost a statement."""
    maker = compile_layers(shard)
    program: Any = maker(shard.span).program
    layers = list(program.of.layers)
    kept = [line for line in layers[1].body.split("\n") if "logistic" not in line]
    layers[1] = Translation(
        "\n".join(kept), *(getattr(layers[1], name) for name in Translation.__slots__[1:])
    )
    compiled_wrong = CompiledLayers.compile(layers)

    def pick(span: Span) -> Recording:
        begin, end = span.start - shard.span.start, span.end - shard.span.start
        return Recording(maker(span).forms, compiled_wrong.program(begin, end))

    return pick


def test_what_computes_something_else_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    from swarm.shards import recording_trial

    monkeypatch.setattr(recording_trial, "compile_layers", wrong)
    assert try_compiling(fresh("llama")) is None


@pytest.fixture
def no_compiler(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    caches: tuple[Any, ...] = (compiled.compiled, compiled.compiled_text)
    for function in caches:
        function.cache_clear()
    monkeypatch.setattr(compiled, "_COMPILERS", ("no-such-compiler",))
    yield
    for function in caches:
        function.cache_clear()


@pytest.mark.usefixtures("no_compiler")
def test_without_a_compiler_nothing_is_lost() -> None:
    shard = fresh("llama")
    assert try_compiling(shard) is None
    assert try_rows(shard, None) is None
    maker = try_recording(shard, None)
    session, usual = (shard.open(shard.span, rollback=False) for _ in range(2))
    torch.manual_seed(4)
    for number in range(5):
        step = next_step(usual)
        if number:
            session.next.prepare(None if maker is None else maker(shard.span))
        assert_close(session.apply(step), usual.apply(step))
