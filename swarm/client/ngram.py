"""Drafts from the text itself: what followed the last few tokens when they stood there before."""

from __future__ import annotations

from collections.abc import Sequence

LONGEST = 4
SHORTEST = 2


class NgramIndex:
    """Finds the latest earlier occurrence of a sequence's last tokens, in constant time per token."""

    def __init__(self) -> None:
        self._tokens: list[int] = []
        self._after: dict[tuple[int, ...], int] = {}

    def update(self, tokens: Sequence[int]) -> None:
        """Take in the whole sequence as it is now; only what is new costs anything. A changed past starts anew."""
        known = len(self._tokens)
        if self._tokens != list(tokens[:known]):
            self._tokens, self._after, known = [], {}, 0
        for position in range(known, len(tokens)):
            self._remember(position)
            self._tokens.append(tokens[position])

    def _remember(self, position: int) -> None:
        """Note for each ending before `position` that it continues there."""
        for size in range(SHORTEST, min(LONGEST, position) + 1):
            self._after[tuple(self._tokens[position - size : position])] = position

    def propose(self, length: int) -> tuple[list[int], int]:
        """Up to `length` tokens that may come next, and how many last tokens they are based on (0: no proposal).

        Where the earlier occurrence reaches the end, the draft goes on with itself: a period continues.
        """
        for size in range(min(LONGEST, len(self._tokens)), SHORTEST - 1, -1):
            position = self._after.get(tuple(self._tokens[-size:]))
            if position is not None:
                return self._continue(position, length), size
        return [], 0

    def _continue(self, position: int, length: int) -> list[int]:
        draft: list[int] = []
        known = len(self._tokens)
        for index in range(position, position + length):
            draft.append(self._tokens[index] if index < known else draft[index - known])
        return draft
