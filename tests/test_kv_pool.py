"""The books of the KV cache, whatever order pages come and go in."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from swarm.core.pages import PAGE_TOKENS, pages_for
from swarm.peer.kv_pool import KVPool

owners = st.sampled_from([b"a", b"b", b"c"])
tokens = st.integers(0, 700)
actions = st.lists(st.tuples(owners, st.one_of(st.none(), tokens)), max_size=40)


@given(capacity=st.integers(0, 1000), actions=actions)
def test_free_and_held_pages_always_add_up(capacity: int, actions: list[tuple[bytes, int | None]]) -> None:
    pool = KVPool(capacity)
    held: dict[bytes, int] = {}
    for owner, wanted in actions:
        if wanted is None:
            pool.release(owner)
            held.pop(owner, None)
        else:
            before = held.get(owner, 0)
            fits = max(pages_for(wanted) - before, 0) * PAGE_TOKENS <= pool.free_tokens
            assert pool.acquire(owner, wanted) == fits, "exactly what fits is granted"
            if fits:
                held[owner] = max(before, pages_for(wanted))
        pool.check()
        assert pool.free_tokens == pool.total_tokens - PAGE_TOKENS * sum(held.values())
    for owner in held:
        pool.release(owner)
    assert pool.free_tokens == pool.total_tokens == capacity // PAGE_TOKENS * PAGE_TOKENS


@given(count=st.integers(0, 10_000))
def test_pages_hold_their_tokens_and_not_a_page_more(count: int) -> None:
    assert (pages_for(count) - 1) * PAGE_TOKENS < count <= pages_for(count) * PAGE_TOKENS or count == 0


@given(capacity=st.integers(0, 1000), wanted=tokens)
def test_what_could_ever_be_held_is_what_an_empty_pool_grants(capacity: int, wanted: int) -> None:
    assert KVPool(capacity).could_ever_hold(wanted) == KVPool(capacity).acquire(b"a", wanted)


def test_a_grant_that_fails_changes_nothing() -> None:
    pool = KVPool(128)
    assert pool.acquire(b"a", 64)
    assert not pool.acquire(b"b", 65)
    assert pool.free_tokens == 64
    assert pool.acquire(b"a", 10), "holding more than asked for is enough"
    assert pool.free_tokens == 64
