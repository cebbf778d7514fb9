"""Layer ranges: half-open `[start, end)`, numbered from 0 over the whole model."""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True, order=True, slots=True)
class Span:
    """Consecutive decoder layers `[start, end)`; never empty.

    Raises:
        ValueError: if the range is empty or negative.
    """

    start: int
    end: int

    def __post_init__(self) -> None:
        if not 0 <= self.start < self.end:
            raise ValueError(f"a layer range needs 0 <= start < end, got {self.start}:{self.end}")

    def __len__(self) -> int:
        return self.end - self.start

    def __contains__(self, layer: int) -> bool:
        return self.start <= layer < self.end

    def __str__(self) -> str:
        return f"{self.start}:{self.end}"

    def covers(self, other: Span) -> bool:
        """Whether every layer of `other` is in this span."""
        return self.start <= other.start and other.end <= self.end

    def cuts(self, together: Span | None) -> bool:
        """Whether this span holds some, but not all, of the layers that must stay together."""
        if together is None or self.end <= together.start or together.end <= self.start:
            return False
        return not self.covers(together)

    @classmethod
    def parse(cls, text: str) -> Span:
        """Read `A:B`.

        Raises:
            ValueError: if the text is not two numbers with a colon between.
        """
        match = re.fullmatch(r"\s*(\d+)\s*:\s*(\d+)\s*", text)
        if match is None:
            raise ValueError(f"a layer range is written START:END, for example 0:8; got {text!r}")
        return cls(int(match[1]), int(match[2]))
