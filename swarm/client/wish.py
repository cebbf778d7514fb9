"""What a session wants a chain for."""

from __future__ import annotations

from dataclasses import dataclass

from swarm.core.config import Coding
from swarm.core.span import Span


@dataclass(frozen=True, slots=True)
class ChainWish:
    """What a chain is wanted for.

    Attributes:
        tokens: token rows that every hop must have room for.
        dtype: in which activations travel.
        source, sink: peers before and after the chain; None means this client.
        precision: the only one to use; None takes the cheapest one of this dtype.
        only: the only peers to use; None allows all.
        coding: how activations are coded on the wire; None if they are not.
        together: layers that one peer must serve; None: those that this model cannot divide.
        without: peers that are not to be used.
        prompt_share: token rows of prompt to compute for each token to come.
        row_bytes: what a token row takes on the wire.
    """

    tokens: int
    dtype: str
    source: str | None = None
    sink: str | None = None
    precision: str | None = None
    only: frozenset[str] | None = None
    coding: Coding | None = None
    together: Span | None = None
    without: frozenset[str] = frozenset()
    prompt_share: float = 0.0
    row_bytes: int = 0
