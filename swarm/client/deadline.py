"""How long a step may take before its hops are asked whether they live: what they usually take, times a margin."""

from __future__ import annotations

MARGIN = 6.0
LEAST_S = 1.5
SMOOTHING = 0.2


class StepDeadline:
    """Learns seconds per step and per token; pure arithmetic.

    Args:
        first_s: the deadline while nothing is known.
    """

    def __init__(self, first_s: float) -> None:
        self._first_s = first_s
        self._decode_s: float | None = None
        self._prefill_s_per_token: float | None = None

    def observe(self, tokens: int, seconds: float) -> None:
        """Take in one answered step of `tokens` token rows."""
        if tokens <= 1:
            self._decode_s = _mix(self._decode_s, seconds)
        else:
            self._prefill_s_per_token = _mix(self._prefill_s_per_token, seconds / tokens)

    def allowed_s(self, tokens: int) -> float:
        """Seconds that a step of `tokens` token rows may take."""
        if tokens <= 1:
            expected = self._decode_s
        elif self._prefill_s_per_token is None:
            expected = None
        else:
            expected = self._prefill_s_per_token * tokens + (self._decode_s or 0.0)
        return self._first_s if expected is None else min(max(LEAST_S, MARGIN * expected), self._first_s)


def _mix(old: float | None, new: float) -> float:
    return new if old is None else (1 - SMOOTHING) * old + SMOOTHING * new
