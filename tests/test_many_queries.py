"""The compiled attention of prompts is what torch computes, and is used where it may be."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from swarm.core.config import ModelConfig
from swarm.core.span import Span
from swarm.shards import flat_attention, many_queries
from swarm.shards.batch import apply_batch
from swarm.shards.compiled import compiled
from swarm.shards.foreign_code import random_tensors
from swarm.shards.many_queries import FEWEST, by_many_queries, can_attend_many, has_many_queries
from swarm.shards.session import ShardSession
from swarm.shards.shard import Shard
from swarm.shards.source import ModelSource
from swarm.shards.step import Step, StepTensors
from tests.attention_states import states
from tests.zoo import save_tiny

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.skipif(compiled("attend_many_queries") is None, reason="no C compiler here"),
]
SPAN = Span(0, 4)


def exactly(query: Tensor, key: Tensor, value: Tensor, scale: float, window: int | None = None) -> Tensor:
    tokens, keys = query.shape[2], key.shape[2]
    own, past = torch.arange(keys - tokens, keys)[:, None], torch.arange(keys)
    seen = past <= own
    if window is not None:
        seen &= past > own - window
    return scaled_dot_product_attention(
        query.double(), key.double(), value.double(), attn_mask=seen, scale=scale, enable_gqa=True
    ).float()


@pytest.mark.parametrize("heads", [(4, 4), (6, 2), (5, 1), (71, 1)])
@pytest.mark.parametrize("widths", [(16, 16), (64, 64), (40, 80), (256, 256)])
def test_it_is_attention(heads: tuple[int, int], widths: tuple[int, int]) -> None:
    torch.manual_seed(0)
    for tokens, past in ((64, 0), (64, 1), (65, 63), (80, 64), (131, 70)):
        query = states(tokens, heads[0], widths[0]).transpose(1, 2) * 3
        key = states(heads[1], past + tokens, widths[0], spare=5)
        value = states(heads[1], past + tokens, widths[1], spare=7)
        assert can_attend_many(query, key, value)
        found = by_many_queries(query, key, value, 0.3, None)
        torch.testing.assert_close(found, exactly(query, key, value, 0.3), atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("window", [1, 2, 63, 64, 65, 100, 10**12])
@pytest.mark.parametrize("past", [0, 30, 200])
def test_a_window_ends_what_is_seen(window: int, past: int) -> None:
    torch.manual_seed(1)
    query, key, value = states(6, 90, 32), states(2, past + 90, 32), states(2, past + 90, 32)
    found = by_many_queries(query, key, value, 0.2, window)
    torch.testing.assert_close(found, exactly(query, key, value, 0.2, window), atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("factor", [0.0, 1e-3, 30.0, 1e4])
def test_scores_may_be_alike_or_far_apart(factor: float) -> None:
    torch.manual_seed(2)
    query, key, value = states(4, 64, 16) * factor, states(2, 150, 16), states(2, 150, 16)
    found = by_many_queries(query, key, value, 0.25, None)
    torch.testing.assert_close(found, exactly(query, key, value, 0.25), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("odd", [float("nan"), float("inf")])
@pytest.mark.parametrize("place", [0, 70, 99])
def test_what_is_no_number_stays_none(odd: float, place: int) -> None:
    query, key, value = states(4, 64, 16).abs(), states(2, 100, 16), states(2, 100, 16)
    key[0, 1, place, 0] = odd
    found = by_many_queries(query, key, value, 1.0, None)
    assert found[0, :2].isfinite().all(), "another key head"
    assert found[0, 2:, place - 36 :].isnan().all() if place >= 36 else found[0, 2:].isnan().all()


@pytest.mark.parametrize(
    "spoilt",
    [
        lambda q: q.double(),
        lambda q: q[..., :24],
        lambda q: q.repeat(2, 1, 1, 1),
        lambda q: q.transpose(1, 3),
        lambda q: q.repeat(1, 1, 1, 20),
        lambda q: q[:, :, : FEWEST - 1],
    ],
    ids=["double", "odd width", "rows", "strides", "wide", "few"],
)
def test_other_states_are_left_to_torch(spoilt: Callable[[Tensor], Tensor]) -> None:
    query = states(32, FEWEST, 32)
    assert can_attend_many(query, query, query)
    assert not can_attend_many(spoilt(query), query, spoilt(query))


def test_with_several_threads_it_is_left_to_torch() -> None:
    torch.set_num_threads(2)
    assert not has_many_queries()


def test_a_compiler_that_computes_something_else_is_noticed(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    assert has_many_queries()
    right = many_queries._attend
    monkeypatch.setattr(many_queries, "_attend", lambda *given: right(*given) * 1.001)
    many_queries._function.cache_clear()
    try:
        assert not has_many_queries()
        assert "is wrong" in caplog.text
    finally:
        many_queries._function.cache_clear()


@pytest.fixture
def used(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int, int | None]]:
    """Tokens, keys and window of each call of the compiled attention."""
    calls: list[tuple[int, int, int | None]] = []

    def counted(query: Tensor, key: Tensor, value: Tensor, scale: float, window: int | None) -> Tensor:
        calls.append((query.shape[2], key.shape[2], window))
        return by_many_queries(query, key, value, scale, window)

    monkeypatch.setattr(flat_attention, "by_many_queries", counted)
    return calls


def sessions_of(shard: Shard, count: int) -> list[ShardSession]:
    return [shard.open(SPAN, rollback=True) for _ in range(count)]


def piece(session: ShardSession, number: int, tokens: int) -> Step:
    dice = torch.Generator().manual_seed(number)
    return Step(number, session.length, random_tensors(session.shard, SPAN, dice, tokens=tokens))


@pytest.mark.parametrize("window", [None, 100])
def test_pieces_of_a_prompt_use_it(
    window: int | None, tmp_path: Path, used: list[tuple[int, int, int | None]]
) -> None:
    changes: dict[str, Any] = {} if window is None else {"sliding_window": window}
    folder = save_tiny("llama" if window is None else "mistral", tmp_path, head_dim=16, **changes)
    source = ModelSource.open(ModelConfig(str(folder)))
    shard = Shard.load(source, SPAN, dtype=torch.float32, device=torch.device("cpu"))
    assert shard.batching == "flat"
    used.clear()
    usual, alone, *together = sessions_of(shard, 4)
    for number, tokens in enumerate((70, 80, 5, 1, 64)):
        expected = usual.apply(piece(usual, number, tokens)).hidden
        batches = [[alone], together]
        for batch in batches:
            for found in apply_batch([(session, piece(session, number, tokens)) for session in batch]):
                assert not isinstance(found, Exception)
                torch.testing.assert_close(found.hidden, expected, atol=1e-4, rtol=1e-4)
    assert [tokens for tokens, _, _ in used] == [t for t in (70, 80, 64) for _ in range(3 * len(SPAN))]
    assert {window for _, _, window in used if window is not None} <= {window}


def test_padded_rows_are_left_to_torch(tmp_path: Path, used: list[tuple[int, int, int | None]]) -> None:
    source = ModelSource.open(ModelConfig(str(save_tiny("llama", tmp_path, head_dim=16))))
    shard = Shard.load(source, SPAN, dtype=torch.float32, device=torch.device("cpu"))
    used.clear()
    usual, session = sessions_of(shard, 2)
    dice = torch.Generator().manual_seed(0)
    tensors = random_tensors(shard, SPAN, dice, tokens=70)
    mask = torch.arange(70)[None] >= 3
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    padded = Step(0, 0, StepTensors(tensors.hidden, mask=mask, positions=positions))
    (found,) = apply_batch([(session, padded)])
    assert not isinstance(found, Exception)
    torch.testing.assert_close(found.hidden[:, 3:], usual.apply(padded).hidden[:, 3:], atol=1e-4, rtol=1e-4)
    assert used == []
