"""Where a chain is broken."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from swarm.client.hop import RemoteHop
from swarm.core.span import Span


@dataclass(frozen=True, slots=True)
class Gap:
    """Lost hops `[first, last]` of a chain, by index."""

    first: int
    last: int

    def span(self, hops: Sequence[RemoteHop]) -> Span:
        return Span(hops[self.first].span.start, hops[self.last].span.end)


def find_gap(hops: Sequence[RemoteHop]) -> Gap | None:
    """The first run of hops that cannot be used."""
    first = next((i for i, hop in enumerate(hops) if not hop.usable), None)
    if first is None:
        return None
    last = first
    while last + 1 < len(hops) and not hops[last + 1].usable:
        last += 1
    return Gap(first, last)
