"""What sessions allocate is what the pool has counted for them, and growing copies little."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from swarm.core.pages import PAGE_TOKENS, pages_for, room_for
from swarm.core.span import Span
from swarm.shards.history import History
from swarm.shards.room import Room
from swarm.shards.step import StepTensors
from tests.shard_lab import feed, hidden, load_shards

rows = st.integers(1, 100)
steps = st.lists(st.one_of(st.just(1), st.integers(2, 700)), min_size=1, max_size=30)


@given(rows=rows, steps=steps)
def test_room_is_the_pages_of_the_pool_and_at_most_a_32nd_more(rows: int, steps: list[int]) -> None:
    room = length = 0
    for count in steps:
        length, before = length + count, length
        if length > room:
            room = room_for(rows, length, before)
        counted = pages_for(rows * length) * PAGE_TOKENS
        assert length <= room
        assert rows * room <= counted * 33 / 32 + PAGE_TOKENS + rows


@given(length=st.integers(640, 20_000))
def test_room_for_many_tokens_is_within_a_tenth(length: int) -> None:
    assert room_for(1, length, length - 1) <= 1.1 * length


@settings(max_examples=20)
@given(first=st.integers(1, 20_000))
def test_growing_token_by_token_copies_a_few_tokens_for_each(first: int) -> None:
    room, copied, until = room_for(1, first, 0), 0, first + 2000
    for length in range(first + 1, until + 1):
        if length > room:
            room, copied = room_for(1, length, length - 1), copied + length - 1
    assert copied / 2000 <= 48, "whatever the length"


def test_keys_and_outputs_take_exactly_this_room() -> None:
    keys, kept, past, capacity = Room(), History(), torch.empty(0), 0
    for count in (700, 1, 1, 3, 60, 1):
        before = kept.length
        past = keys.extend(past, torch.zeros(1, 2, count, 4))
        kept.append(StepTensors(torch.zeros(1, count, 6)))
        assert past.shape[-2] == kept.length
        if kept.length > capacity:
            capacity = room_for(1, kept.length, before)
        assert (keys.nbytes, kept.nbytes) == (capacity * 2 * 4 * 4, capacity * 6 * 4)


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 2, 3])
def test_a_session_holds_what_its_pages_cost(count: int) -> None:
    (shard,) = load_shards("llama", [Span(1, 4)])
    session = shard.open(shard.span, rollback=True)
    length = 0
    for number, tokens in enumerate((640, 1, 1, 100, 1, 1)):
        feed(session, number, length, hidden(tokens, rows=count))
        length += tokens
        pages = pages_for(count * length) * PAGE_TOKENS * shard.cache_bytes_per_token
        assert pages / 1.1 <= session.nbytes <= 1.1 * pages
