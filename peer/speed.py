"""How fast a peer is, per layer."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Speed:
    """Seconds per layer and token: of a decode step, and of a long prompt. 0 where that was not measured."""

    decode_s: float = 0.0
    prefill_s: float = 0.0

    def or_else(self, other: Speed) -> Speed:
        """This, with what was not measured taken from `other`."""
        return Speed(self.decode_s or other.decode_s, self.prefill_s or other.prefill_s)
