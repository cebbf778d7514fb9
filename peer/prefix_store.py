"""What ended sessions have cached, kept for sessions that begin with the same blocks.

    session ended --keep--> kept --find--> kept (somebody copies it)
                             | evicted when its pages are needed, continued by a longer one, too many, idle: gone

Kept sessions hold their pages in the pool, but only as long as nobody else needs these.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from swarm.core.pages import PAGE_TOKENS, pages_for
from swarm.core.prefix_index import BLOCK_TOKENS, PrefixIndex
from swarm.core.span import Span
from swarm.peer.kv_pool import KVPool


class Cached(Protocol):
    """What is kept: the cache of one row."""

    @property
    def length(self) -> int:
        """Positions."""
        ...

    @property
    def span(self) -> Span: ...


CachedT = TypeVar("CachedT", bound=Cached)


@dataclass(slots=True, eq=False)
class _Kept(Generic[CachedT]):
    cached: CachedT
    owner: bytes
    tokens: int
    used_s: float


class PrefixStore(Generic[CachedT]):
    """Books of what is kept, least recently used first. Nobody finds what another client left, unless it is shared.

    Args:
        pool: where kept sessions hold their pages.
        most: how many are kept at once; 0 keeps none.
        is_shared: whether clients find each other's.
    """

    def __init__(self, pool: KVPool, most: int, *, is_shared: bool = False) -> None:
        self._pool = pool
        self._most = most
        self._is_shared = is_shared
        self._index: PrefixIndex[_Kept[CachedT]] = PrefixIndex()
        self._count = 0

    def __len__(self) -> int:
        return len(self._index)

    @property
    def held_tokens(self) -> int:
        """Token rows that could be evicted."""
        return sum(pages_for(kept.tokens) * PAGE_TOKENS for kept in self._index)

    def keep(self, client: str, chain: Sequence[bytes], cached: CachedT, now_s: float) -> bool:
        """Keep `cached`, whose first blocks have these hashes; False if there is no room for it or nothing to keep."""
        chain = chain[: cached.length // BLOCK_TOKENS]
        owner = b"kept" + self._count.to_bytes(8, "big")  # shorter than a session's id: never the same
        if not chain or not self._most or not self._pool.acquire(owner, cached.length):
            return False
        self._count += 1
        kept = _Kept(cached, owner, cached.length, now_s)
        for continued in self._index.put(self._scope(client, cached.span), chain, kept):
            self._pool.release(continued.owner)
        while len(self._index) > self._most:
            self.evict()
        return True

    def find(
        self, client: str, span: Span, chain: Sequence[bytes], now_s: float
    ) -> tuple[CachedT, int] | None:
        """What shares most blocks with `chain` on exactly these layers, and how many positions these are."""
        found = self._index.find(self._scope(client, span), chain)
        if found is None:
            return None
        kept, blocks = found
        kept.used_s = now_s
        return kept.cached, blocks * BLOCK_TOKENS

    def evict(self) -> bool:
        """Forget what was not used for longest; False if there is nothing."""
        kept = self._index.pop_oldest()
        if kept is None:
            return False
        self._pool.release(kept.owner)
        return True

    def expire(self, before_s: float) -> None:
        """Forget what nobody used since."""
        while any(kept.used_s < before_s for kept in self._index):
            self.evict()  # the order of use is the order of time

    def clear(self) -> None:
        """Forget everything."""
        while self.evict():
            pass

    def _scope(self, client: str, span: Span) -> tuple[str, Span]:
        return "" if self._is_shared else client, span
