"""What is known about token prefixes: values under chains of block hashes, in the order of their last use.

A chain has one hash for every full block of `BLOCK_TOKENS` positions. Each hash covers its block and the hash before
it, so that two sequences which share the n-th hash begin with the same n blocks.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from typing import Generic, TypeVar

BLOCK_TOKENS = 32
Value = TypeVar("Value")


class PrefixIndex(Generic[Value]):
    """Values under chains; chains of different scopes never meet."""

    def __init__(self) -> None:
        self._values: dict[tuple[Hashable, tuple[bytes, ...]], Value] = {}

    def __len__(self) -> int:
        return len(self._values)

    def __iter__(self) -> Iterator[Value]:
        """All values, the least recently used one first."""
        return iter(list(self._values.values()))

    def find(self, scope: Hashable, chain: Sequence[bytes]) -> tuple[Value, int] | None:
        """The value that shares most blocks with `chain`, and how many; of equal ones the newest. It counts as used."""
        found, most = None, 0
        for key in self._values:
            blocks = _common(key[1], chain) if key[0] == scope else 0
            if blocks and blocks >= most:
                found, most = key, blocks
        if found is None:
            return None
        value = self._values[found] = self._values.pop(found)
        return value, most

    def put(self, scope: Hashable, chain: Sequence[bytes], value: Value) -> list[Value]:
        """Add a value; those whose whole chain it continues or repeats leave, and are returned."""
        assert chain, "an empty chain says nothing"
        gone = [key for key in self._values if key[0] == scope and _common(key[1], chain) == len(key[1])]
        left = [self._values.pop(key) for key in gone]
        self._values[scope, tuple(chain)] = value
        return left

    def pop_oldest(self) -> Value | None:
        """Remove the value that was not used for longest; None if there is none."""
        return self._values.pop(next(iter(self._values))) if self._values else None

    def discard(self, value: Value) -> None:
        """Remove a value wherever it stands; harmless if it is gone."""
        self._values = {key: held for key, held in self._values.items() if held is not value}


def _common(a: Sequence[bytes], b: Sequence[bytes]) -> int:
    for i, (left, right) in enumerate(zip(a, b, strict=False)):
        if left != right:
            return i
    return min(len(a), len(b))
