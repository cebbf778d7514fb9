"""Books of the KV cache: who holds how many pages.

A page is room for its token rows in every layer of the peer's span. The pool counts; the tensors themselves belong to
the sessions.
"""

from __future__ import annotations

from swarm.core.pages import PAGE_TOKENS, pages_for


class KVPool:
    """Counts pages held per session; never hands out more than there are.

    Args:
        capacity_tokens: token rows the peer has room for, rounded down to whole pages.
    """

    def __init__(self, capacity_tokens: int) -> None:
        self._total = capacity_tokens // PAGE_TOKENS
        self._held: dict[bytes, int] = {}
        self._free = self._total

    @property
    def total_tokens(self) -> int:
        return self._total * PAGE_TOKENS

    @property
    def free_tokens(self) -> int:
        return self._free * PAGE_TOKENS

    def could_ever_hold(self, tokens: int) -> bool:
        """Whether an empty pool would have room."""
        return pages_for(tokens) <= self._total

    def lacking(self, owner: bytes, tokens: int) -> int:
        """Token rows that must become free before `owner` can hold room for `tokens` in all; 0 if none."""
        return max(pages_for(tokens) - self._held.get(owner, 0) - self._free, 0) * PAGE_TOKENS

    def acquire(self, owner: bytes, tokens: int) -> bool:
        """Make `owner` hold room for `tokens` in all (growing, never shrinking); False if there is no room."""
        more = pages_for(tokens) - self._held.get(owner, 0)
        if more <= 0:
            return True
        if more > self._free:
            return False
        self._held[owner] = self._held.get(owner, 0) + more
        self._free -= more
        return True

    def release(self, owner: bytes) -> None:
        """Give everything of `owner` back; an unknown owner holds nothing."""
        self._free += self._held.pop(owner, 0)

    def check(self) -> None:
        """Prove the books: free + held == total, and nobody holds less than a page."""
        assert self._free >= 0
        assert self._free + sum(self._held.values()) == self._total
        assert all(pages > 0 for pages in self._held.values())
