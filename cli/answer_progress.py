"""How an answer is coming along: over which chain, how fast, with how many failovers."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from swarm import SwarmModel
    from swarm.routing.chain import Chain

SILENCE_S = 1.0  # without a token for so long, the line says that it waits


class AnswerProgress:
    """Counts from its making on; for one answer.

    Attributes:
        chain: over which it came; None before the first token.
        tokens: so far.
    """

    def __init__(self, model: SwarmModel, clock: Callable[[], float] = time.monotonic) -> None:
        self._model = model
        self._clock = clock
        self._failovers = model.stats.failovers
        self._last_s = clock()
        self._first_s: float | None = None
        self._first_tokens = 0
        self._notice = ""
        self.chain: Chain | None = None
        self.tokens = 0

    def came(self, tokens: int) -> None:
        """So many new tokens came at once."""
        if not tokens:
            return
        self._last_s = self._clock()
        if self._first_s is None:
            self._first_s, self._first_tokens = self._last_s, tokens
        self.tokens += tokens
        self.chain = self._model.chain or self.chain
        self._notice = ""

    def notice(self, text: str) -> None:
        """Something to say until the next token comes."""
        self._notice = text

    def line(self) -> str:
        """All of it, while it comes: the chain as it is now."""
        waited_s = self._clock() - self._last_s
        parts = self._parts(self._model.chain or self.chain)
        if self._notice:
            parts.append(self._notice)
        elif waited_s >= SILENCE_S:
            parts.append(f"waiting {waited_s:.0f} s")
        return " · ".join(parts)

    def summary(self) -> str:
        """The same at the end."""
        return " · ".join(self._parts(self.chain))

    def _parts(self, chain: Chain | None) -> list[str]:
        failovers = self._model.stats.failovers - self._failovers
        parts = [chain_text(self._model, chain) if chain is not None else "looking for a chain"]
        parts.append("1 token" if self.tokens == 1 else f"{self.tokens} tokens")
        if self._first_s is not None and self._last_s > self._first_s:
            rate = (self.tokens - self._first_tokens) / (self._last_s - self._first_s)
            parts.append(f"{rate:.1f} tokens/s")
        if failovers:
            parts.append("1 failover" if failovers == 1 else f"{failovers} failovers")
        return parts


def chain_text(model: SwarmModel, chain: Chain) -> str:
    """`ada 0:5 → ben 5:8`"""
    return " → ".join(
        f"{model.swarm.peer_name(hop.peer_id) or hop.peer_id[-6:]} {hop.span}" for hop in chain.hops
    )
