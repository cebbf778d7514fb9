"""Which waiting work runs next: pure decisions over frozen data.

Within a session work runs in the order of arrival. Between sessions short work (decode) goes before long work
(prefill), unless long work has waited longer than `PATIENCE_S`; equals go in the order of arrival.
"""

from __future__ import annotations

from collections.abc import Sequence, Set
from dataclasses import dataclass

DECODE_TOKENS = 8
PATIENCE_S = 0.5
LINGER_SHARE = 0.04  # of a batch's time
LONGEST_LINGER_S = 0.004


@dataclass(frozen=True, slots=True)
class Waiting:
    """One piece of waiting work; `tokens` is rows x new positions, `arrived_s` any monotonic clock."""

    session: bytes
    tokens: int
    arrived_s: float

    @property
    def is_short(self) -> bool:
        return self.tokens <= DECODE_TOKENS

    def is_late(self, now_s: float) -> bool:
        return now_s - self.arrived_s > PATIENCE_S


def choose_next(waiting: Sequence[Waiting], now_s: float) -> int:
    """Index of the one work to run next; `waiting` is in order of arrival and not empty."""
    assert waiting, "nothing is waiting"
    return min(_heads(waiting), key=lambda index: (_urgency(waiting[index], now_s), index))


def choose_batch(waiting: Sequence[Waiting], now_s: float, budget: int) -> list[int]:
    """Indices of the work to run together; `waiting` is in order of arrival and not empty.

    All short work goes along, at most one piece of each session. Long work fills what is left of `budget` tokens, in
    the order of arrival. The first of it goes even if it does not fit, once it is late or nothing else waits: so
    short work is never held up by more than one such piece, and long work never for ever.
    """
    assert waiting, "nothing is waiting"
    heads = _heads(waiting)
    chosen = [index for index in heads if waiting[index].is_short]
    left = budget - sum(waiting[index].tokens for index in chosen)
    long = [index for index in heads if not waiting[index].is_short]
    for index in long:
        work = waiting[index]
        goes_anyway = index == long[0] and (not chosen or work.is_late(now_s))
        if work.tokens > left and not goes_anyway:
            break
        chosen.append(index)
        left -= work.tokens
    return chosen


def linger_s(waiting: Set[bytes], recent: Set[bytes], decode_s: float) -> float:
    """How long an idle device waits for more sessions: steps that left one hop in one batch arrive one by one.

    Not at all if every session of the `recent` batches is waiting already, as when there is only one.
    """
    return 0.0 if recent <= waiting else min(LINGER_SHARE * decode_s, LONGEST_LINGER_S)


def _heads(waiting: Sequence[Waiting]) -> list[int]:
    """Index of the first work of each session, in order of arrival."""
    first: dict[bytes, int] = {}
    for index, work in enumerate(waiting):
        first.setdefault(work.session, index)
    return list(first.values())


def _urgency(work: Waiting, now_s: float) -> int:
    if work.is_late(now_s):
        return 0
    return 1 if work.is_short else 2
