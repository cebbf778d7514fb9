"""How long a step may take before its hops are asked whether they live: what they usually take, times a margin."""

from __future__ import annotations

MARGIN = 6.0
LEAST_S = 1.5
SMOOTHING = 0.2
UNKNOWN_SHARE = 0.25  # of the time after which hops are given up: a step that got lost is sent again before


class StepDeadline:
    """Learns seconds per step and per token; pure arithmetic.

    Args:
        first_s: when hops that live are given up, while nothing is known.
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
        """Seconds that a step of `tokens` token rows may take until its hops are asked."""
        expected_s = self._expected_s(tokens)
        longest_s = self._first_s * UNKNOWN_SHARE
        return longest_s if expected_s is None else min(max(LEAST_S, MARGIN * expected_s), longest_s)

    def patience_s(self, tokens: int) -> float:
        """Seconds after which hops that live but do not finish are given up."""
        return max(self._first_s, MARGIN * (self._expected_s(tokens) or 0.0))

    def _expected_s(self, tokens: int) -> float | None:
        if tokens <= 1:
            return self._decode_s
        if self._prefill_s_per_token is None:
            return None
        return self._prefill_s_per_token * tokens + (self._decode_s or 0.0)


def _mix(old: float | None, new: float) -> float:
    return new if old is None else (1 - SMOOTHING) * old + SMOOTHING * new
