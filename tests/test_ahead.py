"""Steps that were prepared give exactly what others give, whatever comes instead of the expected one."""

from __future__ import annotations

import pytest
import torch

from swarm.core.span import Span
from swarm.shards.session import ShardSession
from swarm.shards.shard import Shard
from swarm.shards.step import Step, StepTensors
from tests.shard_lab import CPU, source_of

pytestmark = pytest.mark.slow
AHEAD = ["llama", "mistral", "qwen3", "gemma2", "gemma3_text", "phi3", "gpt_oss", "mixtral", "deepseek_v3"]
NOT_AHEAD = ["qwen3_next", "falcon_h1"]  # what they keep between steps recurs


def shard_of(model_type: str, span: Span) -> Shard:
    return Shard.load(source_of(model_type), span, dtype=torch.float32, device=CPU)


def twins(shard: Shard, rollback: bool = True) -> tuple[ShardSession, ShardSession]:
    return shard.open(shard.span, rollback=rollback), shard.open(shard.span, rollback=rollback)


@pytest.mark.parametrize("rollback", [True, False])
@pytest.mark.parametrize("model_type", AHEAD)
def test_long_decoding_is_the_same(model_type: str, rollback: bool) -> None:
    """Beyond sliding windows, which are 8 to 16 tokens in these models."""
    shard = shard_of(model_type, Span(1, 4))
    assert shard.looks_ahead
    usual, ahead = twins(shard, rollback)
    torch.manual_seed(0)
    for position in range(40):
        step = Step(position, position, StepTensors(torch.randn(1, 1, shard.hidden_size)))
        if position:
            ahead.next.prepare()
        assert torch.equal(usual.apply(step).hidden, ahead.apply(step).hidden)


@pytest.mark.parametrize("model_type", NOT_AHEAD)
def test_what_recurs_is_not_prepared(model_type: str) -> None:
    assert not shard_of(model_type, Span(1, 4)).looks_ahead


def test_another_step_than_the_expected_one_may_come() -> None:
    shard = shard_of("llama", Span(0, 3))
    usual, ahead = twins(shard)
    torch.manual_seed(0)

    def states(tokens: int) -> StepTensors:
        return StepTensors(torch.randn(1, tokens, shard.hidden_size))

    positions = StepTensors(states(1).hidden, positions=torch.tensor([[9]]))
    padded = StepTensors(states(1).hidden, mask=torch.tensor([[False]]))
    script = [
        Step(0, 0, states(6)),
        Step(1, 4, states(1)),  # back
        Step(2, 5, states(3)),  # more than one
        Step(3, 8, positions),
        Step(4, 9, states(1)),
        Step(5, 0, states(2)),  # from the start
        Step(6, 2, states(1)),
        Step(7, 3, padded),
        Step(8, 4, states(1)),
    ]
    for step in script:
        if step.number:
            ahead.next.prepare()
        assert torch.equal(usual.apply(step).hidden, ahead.apply(step).hidden)
    rows = StepTensors(torch.randn(2, 1, shard.hidden_size))
    ahead.next.prepare()
    doubled = Step(9, 5, rows, select_rows=(0, 0))
    assert torch.equal(usual.apply(doubled).hidden, ahead.apply(doubled).hidden)


def test_preparing_computes_and_counts_nothing() -> None:
    shard = shard_of("llama", Span(0, 3))
    session, _ = twins(shard)
    session.next.prepare()  # nothing is cached yet
    session.apply(Step(0, 0, StepTensors(torch.randn(1, 3, shard.hidden_size))))
    before = (session.length, session.last_step, session.counters.tokens, session.nbytes)
    session.next.prepare()
    session.next.prepare()
    assert (session.length, session.last_step, session.counters.tokens, session.nbytes) == before
