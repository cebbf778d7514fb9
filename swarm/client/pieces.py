"""A step cut into pieces, so that one hop works on a piece while the hop before it works on the next one."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, sqrt

from swarm.core.config import LEAST_PIECE_TOKENS
from swarm.shards.history import History
from swarm.shards.step import Step, StepTensors

UNKNOWN_FIXED_TOKENS = (
    64.0  # a piece costs as much as this many tokens even if it is empty, until that is measured
)
SMOOTHING = 0.25


@dataclass(frozen=True, slots=True)
class Piece:
    """Positions `[start, start + n)` of a step in one message; `wanted` of them (the last ones) are the caller's."""

    number: int
    start: int
    tensors: StepTensors
    select_rows: tuple[int, ...] | None
    wanted: int

    @property
    def size(self) -> int:
        """Token rows."""
        return self.tensors.rows * self.tensors.tokens


def wanted_from(step: Step, keep_last: int) -> int:
    """The first position whose output the caller wants: the last `keep_last` of the step, or all of it (0)."""
    return step.start + step.tensors.tokens - keep_last if keep_last else step.start


def cut(step: Step, past: History, *, resend_from: int | None, keep_last: int, chunk: int) -> list[Piece]:
    """The pieces of a step, of at most `chunk` positions each (0: one piece).

    `past` ends with this step. It is sent from position `resend_from` on, for hops whose caches end there; None sends
    the step alone.
    """
    first = step.start if resend_from is None else resend_from
    end = step.start + step.tensors.tokens
    wanted = wanted_from(step, keep_last)
    pieces = []
    for start in range(first, end, chunk or end - first):
        stop = min(start + chunk, end) if chunk else end
        whole = (start, stop) == (step.start, end)
        tensors = step.tensors if whole else past.slice(start, stop)
        rows = step.select_rows if start == step.start and resend_from is None else None
        pieces.append(Piece(step.number, start, tensors, rows, max(stop - max(start, wanted), 0)))
    return pieces


class Pace:
    """Chooses how long pieces are, from what hops say their work took; pure arithmetic.

    A piece of k tokens costs a hop `fixed + k x per token`. With h hops and n tokens in m pieces the last hop is done
    after (h + m - 1) pieces, which is least at m = sqrt((h - 1) n x per token / fixed). Fixed is at least what a single
    token takes; pieces of different lengths may show that it is up to what is guessed at first, where products of fewer
    rows are slower.
    """

    def __init__(self) -> None:
        self._fixed_s: float | None = None
        self._token_s: float | None = None
        self._lengths: dict[int, tuple[float, float]] = {}  # tokens and seconds of pieces, by power of two

    def observe(self, tokens: int, hop_s: float) -> None:
        """Take in what a piece of `tokens` token rows took on one hop, on average over its hops."""
        if tokens <= 1:
            self._fixed_s = _mix(self._fixed_s, hop_s)
        elif tokens >= LEAST_PIECE_TOKENS:
            self._token_s = _mix(self._token_s, hop_s / tokens)
            usual = self._lengths.get(tokens.bit_length(), (tokens, hop_s))
            self._lengths[tokens.bit_length()] = (_mix(usual[0], tokens), _mix(usual[1], hop_s))

    @property
    def token_s(self) -> float | None:
        """What a token of a long piece takes on a hop, in seconds; None until it was measured."""
        return self._token_s

    def chunk(self, tokens: int, rows: int, hops: int) -> int:
        """Positions per piece for a step of `tokens` positions in `rows` rows through `hops` hops."""
        pieces = sqrt((hops - 1) * tokens * rows / max(self._fixed_tokens, 1.0))
        return max(ceil(tokens / max(round(pieces), 1)), ceil(LEAST_PIECE_TOKENS / rows))

    @property
    def _fixed_tokens(self) -> float:
        """What a piece costs besides its tokens, in tokens."""
        if self._fixed_s is None or not self._token_s:
            return UNKNOWN_FIXED_TOKENS
        fixed_tokens = self._fixed_s / self._token_s
        (few, few_s), (many, many_s) = min(self._lengths.values()), max(self._lengths.values())
        if many_s > few_s and many > few:
            each_s = (many_s - few_s) / (many - few)
            fixed_tokens = max(fixed_tokens, min(few_s / each_s - few, UNKNOWN_FIXED_TOKENS))
        return fixed_tokens


def _mix(old: float | None, new: float) -> float:
    return new if old is None else (1 - SMOOTHING) * old + SMOOTHING * new
