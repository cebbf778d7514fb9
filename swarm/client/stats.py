"""What happened while a model generated: counts and seconds that users, the CLI and tests read."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class ClientStats:
    """Totals over all sessions of one model.

    Attributes:
        steps: steps that were answered.
        failovers: repairs of a chain that had answered before.
        replans: hops that were left because others were clearly better for their layers.
        handovers: hops whose state went from a peer that left to another one; nothing is computed again for that.
        replayed_tokens: positions sent again into replacements.
        drafted_tokens, accepted_tokens: of speculative decoding.
        reused_tokens: positions that no hop had to compute, because it had kept them from an earlier session.
        stalled_s: seconds that steps spent in repairs, waiting for missing layers included.
    """

    steps: int = 0
    failovers: int = 0
    replans: int = 0
    handovers: int = 0
    replayed_tokens: int = 0
    stalled_s: float = 0.0
    drafted_tokens: int = 0
    accepted_tokens: int = 0
    reused_tokens: int = 0
