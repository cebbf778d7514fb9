"""What a server has generated so far, in numbers."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class Tally:
    """Totals; seconds are sums over calls."""

    calls: int = 0
    answers: int = 0
    tokens: int = 0
    first_token_s: float = 0.0
    total_s: float = 0.0

    def add(self, answers: int, tokens: int, first_token_s: float, total_s: float) -> None:
        """One call was answered."""
        self.calls += 1
        self.answers += answers
        self.tokens += tokens
        self.first_token_s += first_token_s
        self.total_s += total_s

    def as_json(self) -> dict[str, float | int | None]:
        """Totals and means; None where nothing was generated yet."""
        return {
            "calls": self.calls,
            "answers": self.answers,
            "tokens": self.tokens,
            "mean_first_token_s": round(self.first_token_s / self.calls, 4) if self.calls else None,
            "tokens_per_s": round(self.tokens / self.total_s, 3) if self.total_s else None,
        }
