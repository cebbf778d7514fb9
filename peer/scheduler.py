"""Which waiting work runs next: a pure decision over frozen data.

Within a session work runs in the order of arrival. Between sessions short work (decode) goes before long work
(prefill), unless long work has waited longer than `PATIENCE_S`; equals go in the order of arrival.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

DECODE_TOKENS = 8
PATIENCE_S = 0.5


@dataclass(frozen=True, slots=True)
class Waiting:
    """One piece of waiting work; `tokens` is rows x new positions, `arrived_s` any monotonic clock."""

    session: bytes
    tokens: int
    arrived_s: float


def choose_next(waiting: Sequence[Waiting], now_s: float) -> int:
    """Index of the work to run next; `waiting` is in order of arrival and not empty."""
    assert waiting, "nothing is waiting"
    seen: set[bytes] = set()
    best, best_rank = 0, (3, 0.0)
    for index, work in enumerate(waiting):
        if work.session in seen:
            continue
        seen.add(work.session)
        rank = (_urgency(work, now_s), work.arrived_s)
        if rank < best_rank:
            best, best_rank = index, rank
    return best


def _urgency(work: Waiting, now_s: float) -> int:
    if now_s - work.arrived_s > PATIENCE_S:
        return 0
    return 1 if work.tokens <= DECODE_TOKENS else 2
