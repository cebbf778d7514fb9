"""The books of what ended sessions leave behind."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from swarm.core.prefix_index import BLOCK_TOKENS, PrefixIndex
from swarm.core.span import Span
from swarm.peer.kv_pool import KVPool
from swarm.peer.prefix_store import PrefixStore

SPAN = Span(0, 2)


@dataclass(frozen=True)
class Cache:
    """Something with a length, on some layers."""

    length: int
    span: Span = SPAN


def chain(text: str) -> list[bytes]:
    """A hash chain, one block for each letter: what stands before counts."""
    return [text[: i + 1].encode() for i in range(len(text))]


def store_of(pages: int = 16, most: int = 8, *, is_shared: bool = False) -> tuple[PrefixStore[Cache], KVPool]:
    pool = KVPool(pages * 64)
    return PrefixStore(pool, most, is_shared=is_shared), pool


def test_the_longest_common_run_of_blocks_is_found() -> None:
    store, _ = store_of()
    first, second = Cache(100), Cache(150)
    store.keep("ann", chain("abc"), first, 0.0)
    store.keep("ann", chain("abxy"), second, 0.0)
    assert store.find("ann", SPAN, chain("abcd"), 1.0) == (first, 3 * BLOCK_TOKENS)
    assert store.find("ann", SPAN, chain("abxz"), 1.0) == (second, 3 * BLOCK_TOKENS)
    assert store.find("ann", SPAN, chain("aq"), 1.0) == (second, BLOCK_TOKENS), "of equal ones the newest"
    assert store.find("ann", SPAN, chain("qabc"), 1.0) is None
    assert store.find("ann", SPAN, [], 1.0) is None


def test_blocks_count_only_as_far_as_they_are_cached() -> None:
    store, pool = store_of()
    assert store.keep("ann", chain("abcdef"), Cache(2 * BLOCK_TOKENS + 2), 0.0)
    assert store.find("ann", SPAN, chain("abcdef"), 0.0) == (Cache(2 * BLOCK_TOKENS + 2), 2 * BLOCK_TOKENS)
    assert not store.keep("ann", chain("abc"), Cache(BLOCK_TOKENS - 1), 0.0)
    assert pool.free_tokens == (16 - 2) * 64


def test_clients_and_layers_do_not_meet() -> None:
    store, _ = store_of()
    store.keep("ann", chain("ab"), Cache(128), 0.0)
    assert store.find("bob", SPAN, chain("ab"), 0.0) is None
    assert store.find("ann", Span(0, 1), chain("ab"), 0.0) is None
    shared, _ = store_of(is_shared=True)
    shared.keep("ann", chain("ab"), Cache(128), 0.0)
    assert shared.find("bob", SPAN, chain("ab"), 0.0) == (Cache(128), 2 * BLOCK_TOKENS)
    assert shared.find("bob", Span(0, 1), chain("ab"), 0.0) is None


def test_what_was_not_used_for_longest_goes_first() -> None:
    store, pool = store_of(most=2)
    for i, name in enumerate("abc"):
        if name == "c":
            store.find("ann", SPAN, chain("a"), i)
        store.keep("ann", chain(name), Cache(64), i)
    assert store.find("ann", SPAN, chain("b"), 3.0) is None
    assert store.find("ann", SPAN, chain("a"), 3.0) is not None
    assert len(store) == 2
    assert store.held_tokens == 128
    pool.check()


def test_a_longer_text_replaces_what_it_continues() -> None:
    store, pool = store_of()
    store.keep("ann", chain("ab"), Cache(128), 0.0)
    store.keep("bob", chain("ab"), Cache(128), 0.0)
    store.keep("ann", chain("abc"), Cache(100), 0.0)
    assert len(store) == 2
    assert store.held_tokens == 128 + 128
    pool.check()


def test_nothing_is_kept_without_room_and_everything_goes_back() -> None:
    store, pool = store_of(pages=2)
    assert store.keep("ann", chain("ab"), Cache(128), 0.0)
    assert not store.keep("ann", chain("xy"), Cache(128), 0.0)
    assert pool.free_tokens == 0
    store.clear()
    assert pool.free_tokens == pool.total_tokens
    assert not store.evict()
    pool.check()


def test_what_nobody_used_for_long_expires() -> None:
    store, pool = store_of()
    store.keep("ann", chain("a"), Cache(64), 1.0)
    store.keep("ann", chain("b"), Cache(64), 2.0)
    store.find("ann", SPAN, chain("a"), 5.0)
    store.expire(3.0)
    assert store.find("ann", SPAN, chain("b"), 5.0) is None
    assert store.find("ann", SPAN, chain("a"), 5.0) is not None
    assert store.held_tokens == 64
    pool.check()


@pytest.mark.parametrize("most", [0])
def test_a_store_of_none_keeps_none(most: int) -> None:
    store, pool = store_of(most=most)
    assert not store.keep("ann", chain("a"), Cache(64), 0.0)
    assert pool.free_tokens == pool.total_tokens


def test_a_value_is_discarded_wherever_it_stands() -> None:
    index: PrefixIndex[str] = PrefixIndex()
    value = "route"
    index.put(None, chain("ab"), value)
    index.put(None, chain("xy"), value)
    index.discard(value)
    assert list(index) == []
    assert index.pop_oldest() is None
