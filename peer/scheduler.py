"""Which waiting work runs next: pure decisions over frozen data.

Within a session work runs in the order of arrival. Between sessions short work (decode) goes before long work
(prefill), and of long work that with the fewest token rows left: whoever has little to do does not wait for those who
have much. Long work that has waited longer than `PATIENCE_S` has its share beside all of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from swarm.core.config import LEAST_PIECE_TOKENS

DECODE_TOKENS = 8
LEAST_PORTION = 8
PATIENCE_S = 0.5
LEAST_WAIT_S = 0.0005  # what one read of a socket brought comes within this time
CLEAR_GAIN = 1.05
LONG_ABSENCE = 0.8  # of a batch: whoever is away as long keeps another device busy meanwhile


class Waiting(NamedTuple):
    """One piece of waiting work; `tokens` is rows x new positions, `arrived_s` any monotonic clock.

    `divisible` work may run in portions, one after the other; the last one ended at `ran_s`, if there was one.
    """

    session: bytes
    tokens: int
    arrived_s: float
    divisible: bool = False
    ran_s: float | None = None

    @property
    def is_short(self) -> bool:
        return self.tokens <= DECODE_TOKENS

    @property
    def is_brief(self) -> bool:
        """Whether it is a prompt, and all of it: clients cut longer ones into pieces that are no shorter."""
        return DECODE_TOKENS < self.tokens < LEAST_PIECE_TOKENS

    @property
    def idle_since_s(self) -> float:
        """Since when nothing of it runs."""
        return self.arrived_s if self.ran_s is None else self.ran_s


@dataclass(frozen=True, slots=True)
class Portion:
    """So many token rows of the work at `index`, from where it stands."""

    index: int
    tokens: int


def choose_next(waiting: Sequence[Waiting], now_s: float) -> int:
    """Index of the one work to run next; `waiting` is in order of arrival and not empty.

    Long work that has begun takes turns with short work.
    """
    assert waiting, "nothing is waiting"

    def rank(index: int) -> tuple[int, float]:
        return _urgency(waiting[index], now_s), waiting[index].idle_since_s

    return min(_heads(waiting), key=rank)


def choose_batch(
    waiting: Sequence[Waiting], now_s: float, budget: int, most: int | None = None
) -> list[Portion]:
    """What runs together; `waiting` is in order of arrival and not empty, `budget` no less than `LEAST_PORTION`.

    Short work goes along, at most one piece of each session, and of `most` sessions if that is given. Long work has
    `budget` token rows, the fewest left first; what is divisible goes as far as they reach. The oldest has half of
    them once it is late, or goes even if it does not fit if it is not divisible: so short work is never held up by
    more than one such piece, and long work never for ever.
    """
    assert waiting, "nothing is waiting"
    heads = _heads(waiting)
    chosen = [Portion(index, waiting[index].tokens) for index in heads if waiting[index].is_short][:most]
    long = _fewest_first(waiting, heads)
    if not long:
        return chosen
    oldest = min(long)
    must_go = oldest if now_s - waiting[oldest].arrived_s > PATIENCE_S else None
    if must_go is None and not chosen and not waiting[long[0]].divisible:
        must_go = long[0]  # nothing else would run
    return chosen + _share(waiting, long, budget, must_go)


def _share(
    waiting: Sequence[Waiting], long: Sequence[int], budget: int, must_go: int | None
) -> list[Portion]:
    """What of `long` runs within the budget, and what of `must_go` whether it fits or not."""
    kept, left = 0, budget
    if must_go is not None and waiting[must_go].divisible:
        kept = min(waiting[must_go].tokens, max(budget // 2, LEAST_PORTION))
        left = max(budget - kept, LEAST_PORTION)
    elif must_go is not None:
        kept = waiting[must_go].tokens
        left = budget - kept
    portions = []
    for index in long:
        work = waiting[index]
        rows = min(work.tokens, left) if work.divisible else work.tokens
        if index != must_go and min(work.tokens, LEAST_PORTION) <= rows <= left:
            portions.append(Portion(index, rows))
            left -= rows
    if must_go is not None:
        spare = budget - sum(portion.tokens for portion in portions)
        portions.append(Portion(must_go, min(waiting[must_go].tokens, max(kept, spare))))
    return portions


def choose_one(waiting: Sequence[Waiting], now_s: float, budget: int) -> list[Portion]:
    """As `choose_batch` where sessions run one by one."""
    index = choose_next(waiting, now_s)
    work = waiting[index]
    cut = work.divisible and not work.is_short
    return [Portion(index, min(work.tokens, max(budget, LEAST_PORTION)) if cut else work.tokens)]


def long_heads(waiting: Sequence[Waiting]) -> list[Waiting]:
    """The next work of each session whose next work is long, the fewest token rows first."""
    return [waiting[index] for index in _fewest_first(waiting, _heads(waiting))]


@dataclass(frozen=True, slots=True)
class GroupSize:
    """How many sessions decode in one batch: no more than `most`, and for `least` an idle device waits a while."""

    least: int
    most: int


def group_size(sessions: int, absence_s: float, batch_s: float) -> GroupSize:
    """How so many decoding sessions are divided into batches.

    Sessions that are usually away for `absence_s`, as long as a batch takes or longer, are on other devices then. Two
    groups of one size keep these and this one busy at once; one large group would leave each idle while it is on
    another, and groups of different sizes wait for the larger one at every hop. A `batch_s` of 0 is not known yet.
    """
    if batch_s <= 0 or absence_s < LONG_ABSENCE * batch_s:
        return GroupSize(0, sessions)
    return GroupSize(sessions // 2, (sessions + 1) // 2)


def wait_s(here: int, expected_s: Sequence[float], batch_s: float, least: int = 0) -> float:
    """How long an idle device waits for more decode steps, in seconds.

    `here` sessions wait already, others that may join them are back in `expected_s` (sorted). A batch takes hardly
    longer with one more of them, so the device waits for as many as make most tokens per second of waiting and
    computing, but never longer than a batch takes; for a group of `least` half as long, whenever they are expected:
    who runs alone once does so at every hop from then on.
    """
    missing = least - here
    if 0 < missing <= len(expected_s):
        return min(max(expected_s[missing - 1], LEAST_WAIT_S), batch_s / 2)
    best, chosen_s = here / batch_s, 0.0
    for more, at_s in enumerate(expected_s, start=1):
        until_s = max(at_s, LEAST_WAIT_S)
        if until_s > batch_s:
            break
        rate = (here + more) / (until_s + batch_s)
        if rate > CLEAR_GAIN * best:
            best, chosen_s = rate, until_s
    return chosen_s


def _heads(waiting: Sequence[Waiting]) -> list[int]:
    """Index of the first work of each session, in order of arrival."""
    first: dict[bytes, int] = {}
    for index, work in enumerate(waiting):
        first.setdefault(work.session, index)
    return list(first.values())


def _fewest_first(waiting: Sequence[Waiting], heads: Sequence[int]) -> list[int]:
    """Those of `heads` that are long; equals in order of arrival."""
    long = [index for index in heads if not waiting[index].is_short]
    return sorted(long, key=lambda index: waiting[index].tokens)


def _urgency(work: Waiting, now_s: float) -> int:
    if now_s - work.idle_since_s > PATIENCE_S:
        return 0
    return 1 if work.is_short or work.ran_s is not None else 2
