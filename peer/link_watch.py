"""Tells once when a link ends on which sessions depend."""

from __future__ import annotations

import weakref
from collections.abc import Callable

from swarm.wire.link import Link


class LinkWatch:
    """Calls `ended` with every link that was added, when it closes."""

    def __init__(self, ended: Callable[[Link], None]) -> None:
        self._ended = ended
        self._watched: weakref.WeakSet[Link] = weakref.WeakSet()

    def add(self, link: Link) -> None:
        """Watch this link; one that is watched already stays so."""
        if link not in self._watched:
            self._watched.add(link)
            link.on_close(self._ended)
