"""Steps of several sessions in one batch come out as if each session were alone."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
from torch import Tensor

from swarm.core.config import ModelConfig
from swarm.core.errors import RequestError, SessionLost
from swarm.core.span import Span
from swarm.shards.batch import Outcome, apply_batch, portions
from swarm.shards.causal import load_client_model
from swarm.shards.local import LocalRunner
from swarm.shards.session import ShardSession
from swarm.shards.shard import Shard
from swarm.shards.source import ModelSource
from swarm.shards.step import Step, StepTensors
from tests.shard_lab import CPU, feed, generate, hidden, left_padded, load_shards, prompt, twins_of
from tests.zoo import ARCHITECTURES, save_tiny

pytestmark = pytest.mark.slow
every_architecture = pytest.mark.parametrize("model_type", sorted(ARCHITECTURES))
various_models = pytest.mark.parametrize(
    "model_type", ["deepseek_v3", "gemma2", "gpt_oss", "llama", "mistral"]
)
ONE_BY_ONE = {"bloom", "falcon", "falcon_h1", "qwen3_next"}
JOINED = {"deepseek_v3"}
TOLERANCE = 1e-4
MIDDLE = Span(1, 4)


class Neighbour:
    """A session of somebody else that takes steps of changing sizes."""

    def __init__(self, shard: Shard, sizes: tuple[int, ...], rows: int) -> None:
        self._shard = shard
        self._sizes = sizes
        self._rows = rows
        self._dice = torch.Generator().manual_seed(rows)
        self.session = shard.open(shard.span, rollback=True)

    def step(self) -> Step:
        """Goes back by one token in every fourth step where the model can."""
        number = self.session.last_step + 1
        back = number % 4 == 3 and self._shard.traits.croppable
        tensors = self._shard.example(
            self._shard.span, rows=self._rows, tokens=self._sizes[number % len(self._sizes)]
        )
        named = tensors.named()
        for name, value in named.items():
            if value.is_floating_point():
                named[name] = torch.randn(value.shape, generator=self._dice)
        return Step(number, self.session.length - back, StepTensors.from_named(named))


class BusyRunner(LocalRunner):
    """Every step of a session goes through each shard in one batch with steps of two neighbours."""

    def open(self, *, max_tokens: int, rollback: bool) -> Any:
        session = super().open(max_tokens=max_tokens, rollback=rollback)
        hops: list[Any] = [BusyHop(hop) for hop in session.hops]
        session.hops = hops
        return session


class BusyHop:
    """A session on one shard that is never alone."""

    def __init__(self, session: ShardSession) -> None:
        self._session = session
        self._others = [Neighbour(session.shard, (7, 1, 1), 1), Neighbour(session.shard, (2, 1, 4, 1), 2)]

    def apply(self, step: Step) -> StepTensors:
        others = [(other.session, other.step()) for other in self._others]
        outcomes = apply_batch([others[0], (self._session, step), others[1]])
        return [worked(outcome) for outcome in outcomes][1]


def worked(outcome: Outcome) -> StepTensors:
    """The output of a step that did not fail."""
    assert isinstance(outcome, StepTensors), outcome
    return outcome


@functools.cache
def busy_model(model_type: str) -> Any:
    twins = twins_of(model_type)
    return load_client_model(twins.source, BusyRunner(twins.runner.shards), dtype=torch.float32)


@every_architecture
def test_the_fastest_way_that_is_right_is_chosen(model_type: str) -> None:
    ways = {shard.batching for shard in twins_of(model_type).runner.shards}
    expected = "one by one" if model_type in ONE_BY_ONE else "joined" if model_type in JOINED else "flat"
    assert ways == {expected}


@every_architecture
@pytest.mark.parametrize("mode", ["greedy", "beams", "batch"])
def test_tokens_in_company_equal_those_of_the_local_model(model_type: str, mode: str) -> None:
    arguments: dict[str, Any] = {"input_ids": prompt(), "do_sample": False}
    if mode == "batch":
        arguments |= left_padded()
    if mode == "beams":
        arguments |= {"num_beams": 3}
    expected = generate(twins_of(model_type).local, **arguments)
    assert generate(busy_model(model_type), **arguments).tolist() == expected.tolist()


@every_architecture
def test_logits_in_company_equal_those_of_the_local_model(model_type: str) -> None:
    local, model = twins_of(model_type).local, busy_model(model_type)
    with torch.no_grad():
        for inputs in ({"input_ids": prompt(17)}, left_padded()):
            mask = inputs.get("attention_mask", torch.ones_like(inputs["input_ids"])).bool()
            deviation = (local(**inputs).logits - model(**inputs).logits)[mask].abs().max()
            assert deviation < TOLERANCE


# what a session promises, in a batch ----------------------------------------------------------------------------------


@functools.cache
def middle_shard(model_type: str) -> Shard:
    return load_shards(model_type, [MIDDLE])[0]


def opened(model_type: str, count: int, span: Span = MIDDLE) -> list[ShardSession]:
    """Fresh sessions, the first of which have the most tokens."""
    sessions = [middle_shard(model_type).open(span, rollback=True) for _ in range(count)]
    for index, session in enumerate(sessions):
        feed(session, 0, 0, hidden(9 - index, seed=index))
    return sessions


def one_more(session: ShardSession, seed: int, tokens: int = 1, start: int | None = None) -> Step:
    """The next step of a session."""
    begin = session.length if start is None else start
    return Step(session.last_step + 1, begin, StepTensors(hidden(tokens, seed=seed)))


def assert_close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


@various_models
def test_a_batch_does_what_apply_does(model_type: str) -> None:
    together, apart = opened(model_type, 3), opened(model_type, 3)
    for turn in range(4):
        steps = [one_more(session, 10 * turn + i, 1 + (turn + i) % 3) for i, session in enumerate(together)]
        outcomes = apply_batch(list(zip(together, steps, strict=True)))
        for session, step, outcome in zip(apart, steps, outcomes, strict=True):
            assert_close(worked(outcome).hidden, session.apply(step).hidden)
    for first, second in zip(together, apart, strict=True):
        assert (first.length, first.last_step, first.counters) == (
            second.length,
            second.last_step,
            second.counters,
        )
        assert_close(first.kept.slice(0, first.length).hidden, second.kept.slice(0, second.length).hidden)
        assert first.nbytes == second.nbytes


@pytest.mark.parametrize("model_type", ["llama", "bloom"])
def test_a_step_that_is_alone_with_a_long_past_does_what_apply_does(model_type: str) -> None:
    alone, applied = opened(model_type, 1)[0], opened(model_type, 1)[0]
    for seed, tokens in enumerate((1024, 1, 3, 12, 1)):
        (outcome,) = apply_batch([(alone, one_more(alone, seed, tokens))])
        assert_close(worked(outcome).hidden, applied.apply(one_more(applied, seed, tokens)).hidden)


def test_a_refused_step_drops_out_alone() -> None:
    sessions = opened("llama", 3)
    steps = [one_more(session, index) for index, session in enumerate(sessions)]
    steps[1] = one_more(sessions[1], 1, start=50)
    first, second, third = apply_batch(list(zip(sessions, steps, strict=True)))
    assert isinstance(second, RequestError)
    assert "50, but only 8" in str(second)
    assert worked(first).tokens == worked(third).tokens == 1
    assert [session.length for session in sessions] == [10, 8, 8]


def test_a_repeated_step_costs_nothing_in_a_batch() -> None:
    sessions = opened("llama", 2)
    steps = [one_more(session, index) for index, session in enumerate(sessions)]
    before = apply_batch(list(zip(sessions, steps, strict=True)))
    after = apply_batch([(sessions[0], steps[0]), (sessions[1], one_more(sessions[1], 5))])
    assert torch.equal(worked(after[0]).hidden, worked(before[0]).hidden)
    assert sessions[0].counters.tokens == 10
    assert sessions[1].counters.tokens == 10


@various_models
def test_rows_are_selected_and_steps_rolled_back_within_a_batch(model_type: str) -> None:
    shard = middle_shard(model_type)
    pairs = [[shard.open(MIDDLE, rollback=True) for _ in range(2)] for _ in range(2)]
    for first, second in pairs:
        feed(first, 0, 0, hidden(9, rows=3))
        feed(second, 0, 0, hidden(8))
    selecting = Step(1, 9, StepTensors(hidden(2, rows=2, seed=6)), (2, 0))
    returning = Step(1, 5, StepTensors(hidden(3, seed=7)))
    outcomes = apply_batch([(pairs[0][0], selecting), (pairs[0][1], returning)])
    assert_close(worked(outcomes[0]).hidden, pairs[1][0].apply(selecting).hidden)
    assert_close(worked(outcomes[1]).hidden, pairs[1][1].apply(returning).hidden)


def test_steps_through_other_layers_share_a_call_but_no_forward() -> None:
    whole, part = opened("llama", 2), opened("llama", 2, Span(2, 3))
    twins = opened("llama", 2, Span(2, 3))
    sessions = [whole[0], part[0], whole[1], part[1]]
    outcomes = apply_batch([(session, one_more(session, i)) for i, session in enumerate(sessions)])
    for index, twin in ((1, twins[0]), (3, twins[1])):
        assert_close(worked(outcomes[index]).hidden, twin.apply(one_more(twin, index)).hidden)


def test_a_failing_forward_loses_the_sessions_that_were_in_it_and_no_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(
        middle_shard("llama").__dict__, "recorders", (None, None)
    )  # compiled layers call no hooks
    inside, outside = opened("llama", 2), opened("llama", 2, Span(1, 2))
    layer: Any = middle_shard("llama").window[3]
    handle = layer.register_forward_pre_hook(lambda *_: (_ for _ in ()).throw(MemoryError()))
    sessions = [*inside, *outside]
    try:
        outcomes = apply_batch([(session, one_more(session, i)) for i, session in enumerate(sessions)])
    finally:
        handle.remove()
    assert [type(outcome) for outcome in outcomes] == [MemoryError, MemoryError, StepTensors, StepTensors]
    for session in inside:
        with pytest.raises(SessionLost):
            session.apply(one_more(session, 0))
    for session in outside:
        assert session.apply(one_more(session, 0)).tokens == 1


def test_joined_pasts_are_expanded_in_portions() -> None:
    sessions = [middle_shard("deepseek_v3").open(MIDDLE, rollback=True) for _ in range(4)]
    for session, length in zip(sessions, (9000, 9000, 5000, 40000), strict=True):
        session.length = length
    items = [(session, one_more(session, 0)) for session in sessions]
    assert portions(items, [0, 1, 2, 3]) == [[0], [1, 2], [3]]


def test_padding_without_positions_runs_by_itself() -> None:
    sessions, twins = opened("opt", 3), opened("opt", 3)
    step = Step(1, 9, StepTensors(hidden(2, seed=5), mask=torch.tensor([[False, True]])))
    steps = [step, *(one_more(session, 6) for session in sessions[1:])]
    outcomes = apply_batch(list(zip(sessions, steps, strict=True)))
    for twin, given, outcome in zip(twins, steps, outcomes, strict=True):
        assert_close(worked(outcome).hidden, twin.apply(given).hidden)


# the self-check ------------------------------------------------------------------------------------------------------


def shard_of(tmp_path: Any, model_type: str, **changes: Any) -> Shard:
    source = ModelSource.open(ModelConfig(str(save_tiny(model_type, tmp_path, **changes))))
    return Shard.load(source, Span(0, 4), dtype=torch.float32, device=CPU)


def test_rotary_positions_that_depend_on_the_longest_session_are_refused(tmp_path: Any) -> None:
    rope = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0}
    assert shard_of(tmp_path, "llama", rope_parameters=rope).batching == "one by one"


def test_attention_in_chunks_that_no_short_session_reaches_is_refused(tmp_path: Any) -> None:
    assert shard_of(tmp_path, "llama4_text", attention_chunk_size=100).batching == "one by one"


def test_a_window_that_no_short_session_reaches_is_tried(tmp_path: Any) -> None:
    assert shard_of(tmp_path, "mistral", sliding_window=100).batching == "flat"


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("model_type", ["gpt_oss", "llama", "mistral", "qwen3_moe"])
def test_rounding_in_half_precision_is_no_reason_to_refuse(model_type: str, dtype: torch.dtype) -> None:
    shard = Shard.load(twins_of(model_type).source, MIDDLE, dtype=dtype, device=CPU)
    assert shard.batching == "flat"


def test_half_precision_does_not_hide_what_is_wrong() -> None:
    shard = Shard.load(twins_of("bloom").source, MIDDLE, dtype=torch.bfloat16, device=CPU)
    assert shard.batching == "one by one"
