"""Which peers a client leaves alone now, because they failed or are busy, and what they said at last."""

from __future__ import annotations

import asyncio
import logging

from swarm.core.errors import PeerBusy, PeerError
from swarm.routing.breaker import CircuitBreaker
from swarm.routing.rests import Rests

logger = logging.getLogger(__name__)
MOST_NAMED = 3


class Standing:
    """What a client has seen of each peer. For the event loop only, whose clock it goes by.

    Attributes:
        last_failure: in words, by peer id, until the peer answers.
    """

    def __init__(self) -> None:
        self.last_failure: dict[str, str] = {}
        self._breaker = CircuitBreaker()
        self._rests = Rests()

    def blame(self, peer_id: str, error: PeerError) -> None:
        """Leave this peer alone: as long as it says if it is busy, else for a while."""
        if not isinstance(error, PeerBusy):
            self.failed(peer_id, str(error))
            return
        left_s = self._rests.begin(peer_id, error.retry_after_s, _now_s())
        self.last_failure[peer_id] = str(error)
        logger.info("peer %s is busy: %s; left alone for %.1f s", peer_id[-8:], error, left_s)

    def failed(self, peer_id: str, reason: str) -> None:
        """Leave this peer alone for a while."""
        logger.info("peer %s failed: %s", peer_id[-8:], reason)
        self.last_failure[peer_id] = reason
        self._breaker.record_failure(peer_id, _now_s())

    def worked(self, peer_id: str) -> None:
        """This peer answered."""
        self.last_failure.pop(peer_id, None)
        self._breaker.record_success(peer_id)

    def is_failing(self, peer_id: str) -> bool:
        """Whether to stay away from this peer."""
        return self._breaker.is_open(peer_id, _now_s())

    def failing(self) -> frozenset[str]:
        """All peers to stay away from."""
        return self._breaker.open_peers(_now_s())

    def resting(self) -> frozenset[str]:
        """All peers that are busy, and not to be asked yet."""
        return self._rests.resting(_now_s())

    def last_words(self) -> str:
        """What some of the peers that are avoided now said at last, for the end of an error message."""
        named = sorted((self.failing() | self.resting()) & self.last_failure.keys())[:MOST_NAMED]
        return "".join(f"; {peer_id[-8:]}: {self.last_failure[peer_id]}" for peer_id in named)


def _now_s() -> float:
    return asyncio.get_running_loop().time()
