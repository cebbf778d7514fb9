"""Which chains served which sequences, so that the next one that begins alike goes where its cache is."""

from __future__ import annotations

from collections.abc import Sequence

from swarm.core.prefix_index import PrefixIndex
from swarm.routing.chain import Chain

MOST_ROUTES = 64


class Routes:
    """Chains under the block hashes of what they have cached, the least recently used one first to go."""

    def __init__(self) -> None:
        self._chains: PrefixIndex[Chain] = PrefixIndex()

    def remember(self, prefix: Sequence[bytes], chain: Chain) -> None:
        """This chain was left with these blocks."""
        self._chains.put(None, prefix, chain)
        if len(self._chains) > MOST_ROUTES:
            self._chains.pop_oldest()

    def find(self, prefix: Sequence[bytes]) -> Chain | None:
        """The chain that shares most blocks, if these are half of the prompt: for less, another may be faster."""
        found = self._chains.find(None, prefix)
        return found[0] if found is not None and 2 * found[1] >= len(prefix) else None

    def forget(self, chain: Chain) -> None:
        """It did not work."""
        self._chains.discard(chain)
