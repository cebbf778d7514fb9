"""Pages: the unit in which memory of cached tokens is counted and allocated.

A page is `PAGE_TOKENS` token rows; a token row is one position of one row of a batch.
"""

from __future__ import annotations

PAGE_TOKENS = 64
_SPARE = 32  # a past of 32 pages grows by one more: then each new token costs a copy of 32 at most


def pages_for(tokens: int) -> int:
    """Pages that hold this many token rows."""
    return -(-tokens // PAGE_TOKENS)


def room_for(rows: int, length: int, before: int) -> int:
    """Positions to allocate for `rows` rows that grow from `before` to `length` positions.

    These are the pages of the token rows, as near as whole positions come, and of a long past up to a 32nd in advance:
    what grows by a page each time would copy a share of its past for every token.
    """
    page = -(-PAGE_TOKENS // rows)
    return (-(-length // page) + before // _SPARE // page) * page
