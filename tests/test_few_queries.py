"""The compiled attention of single tokens is what torch computes, and is used where it may be."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from swarm.core.span import Span
from swarm.shards import ahead, flat_attention
from swarm.shards.batch import apply_batch
from swarm.shards.compiled import compiled
from swarm.shards.few_queries import by_few_queries, can_attend
from swarm.shards.foreign_code import random_tensors
from swarm.shards.session import _LONG_PAST, ShardSession
from swarm.shards.step import Step
from tests.attention_states import states
from tests.in_process import shard_of

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.skipif(compiled("attend_few_queries") is None, reason="no C compiler here"),
]
SPAN = Span(0, 3)


@pytest.mark.parametrize("heads", [(4, 4), (6, 2), (5, 1), (16, 8), (71, 1)])
@pytest.mark.parametrize("widths", [(8, 8), (64, 64), (96, 40), (256, 256)])
def test_it_is_attention(heads: tuple[int, int], widths: tuple[int, int]) -> None:
    torch.manual_seed(0)
    for keys in (1, 3, 15, 16, 17, 64, 100, 257):
        query = states(heads[0], 1, widths[0]) * 3
        key, value = states(heads[1], keys, widths[0], spare=5), states(heads[1], keys, widths[1], spare=7)
        assert can_attend(query, key, value)
        found = by_few_queries(query, key, value, 0.3)
        exact = scaled_dot_product_attention(
            query.double(), key.double(), value.double(), scale=0.3, enable_gqa=True
        )
        torch.testing.assert_close(found, exact.float(), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("factor", [0.0, 1e-3, 30.0, 1e4])
def test_scores_may_be_alike_or_far_apart(factor: float) -> None:
    torch.manual_seed(1)
    query, key, value = states(4, 1, 16) * factor, states(2, 90, 16), states(2, 90, 16)
    exact = scaled_dot_product_attention(
        query.double(), key.double(), value.double(), scale=0.25, enable_gqa=True
    )
    found = by_few_queries(query, key, value, 0.25)
    torch.testing.assert_close(found, exact.float(), atol=1e-4, rtol=1e-4)


def test_a_late_key_may_outweigh_all_others() -> None:
    key, value = torch.zeros(1, 1, 200, 8), states(1, 200, 8)
    key[0, 0, 150] = 100.0
    found = by_few_queries(torch.ones(1, 1, 1, 8), key, value, 1.0)
    torch.testing.assert_close(found[0, 0, 0], value[0, 0, 150])


@pytest.mark.parametrize("odd", [float("nan"), float("inf")])
@pytest.mark.parametrize("place", [0, 20, 39])
def test_what_is_no_number_stays_none(odd: float, place: int) -> None:
    query, key, value = states(4, 1, 8), states(2, 40, 8), states(2, 40, 8)
    key[0, 1, place, 0] = odd
    found = by_few_queries(query, key, value, 1.0)
    assert found[0, :2].isfinite().all(), "another key head"
    assert found[0, 2:].isnan().all()


@pytest.mark.parametrize(
    "spoilt",
    [
        lambda q: q.double(),
        lambda q: q[..., :12],
        lambda q: q.repeat(2, 1, 1, 1),
        lambda q: q.transpose(1, 3),
        lambda q: q.repeat(1, 1, 1, 20),
    ],
    ids=["double", "odd width", "rows", "strides", "wide"],
)
def test_other_states_are_left_to_torch(spoilt: object) -> None:
    assert callable(spoilt)
    query = states(16, 1, 16)
    assert can_attend(query, query, query)
    assert not can_attend(spoilt(query), query, query)


def test_with_several_threads_it_is_left_to_torch() -> None:
    torch.set_num_threads(2)
    query = states(4, 1, 16)
    assert not can_attend(query, query, query)


def with_past(length: int) -> ShardSession:
    shard = shard_of("llama", SPAN.start, SPAN.end)
    session = shard.open(SPAN, rollback=True)
    dice = torch.Generator().manual_seed(0)
    session.apply(Step(0, 0, random_tensors(shard, SPAN, dice, tokens=length)))
    return session


def steps(session: ShardSession, count: int) -> Iterator[Step]:
    dice = torch.Generator().manual_seed(1)
    for number in range(1, count + 1):
        tensors = random_tensors(session.shard, SPAN, dice)
        yield Step(number, session.length, tensors)


@pytest.fixture
def used(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many keys each call of the compiled attention had, in layers that are not compiled as a whole."""
    monkeypatch.setitem(with_past(1).shard.__dict__, "recorders", (None, None))
    counts: list[int] = []

    def counted(query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        counts.append(key.shape[2])
        return by_few_queries(query, key, value, scale)

    monkeypatch.setattr(flat_attention, "by_few_queries", counted)
    return counts


@pytest.mark.parametrize("prepared", [True, False])
def test_a_session_alone_uses_it_once_its_past_is_long(prepared: bool, used: list[int]) -> None:
    usual, session = with_past(_LONG_PAST - 2), with_past(_LONG_PAST - 2)
    assert session.shard.batching == "flat"
    used.clear()  # the check at load uses it, too
    for step, same in zip(steps(session, 5), steps(usual, 5), strict=True):
        if prepared:
            session.next.prepare()
            assert isinstance(session.next.foreseen, ahead.PreparedFlat) == (session.length >= _LONG_PAST)
        (found,) = apply_batch([(session, step)])
        assert not isinstance(found, Exception)
        torch.testing.assert_close(found.hidden, usual.apply(same).hidden, atol=1e-4, rtol=1e-4)
    assert used == [length + 1 for length in range(_LONG_PAST, _LONG_PAST + 3) for _ in range(3)]


def test_sessions_of_one_batch_use_it(used: list[int]) -> None:
    sessions = [with_past(length) for length in (5, 40)]
    used.clear()
    apply_batch([(session, next(steps(session, 1))) for session in sessions])
    assert used == [6, 41] * 3
