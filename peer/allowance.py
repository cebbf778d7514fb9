"""How much of one session may be inside of the peer at a time, between its arrival and its departure.

A client has one step under way, a replay a few. Whoever sends faster than the device computes, or than the next one
reads, waits in front of the door: on its own link, with its own memory.
"""

from __future__ import annotations

import asyncio


class Allowance:
    """Counts bytes; a single piece of any size is always let in."""

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes = most_bytes
        self._freed = asyncio.Event()
        self.used_bytes = 0

    def try_acquire(self, nbytes: int) -> bool:
        """Let `nbytes` in if they fit beside what is inside."""
        if self.used_bytes and self.used_bytes + nbytes > self._most_bytes:
            return False
        self.used_bytes += nbytes
        return True

    async def acquire(self, nbytes: int) -> None:
        """Wait until `nbytes` fit beside what is inside."""
        while not self.try_acquire(nbytes):
            self._freed.clear()
            await self._freed.wait()

    def release(self, nbytes: int) -> None:
        """Something has left."""
        self.used_bytes -= nbytes
        assert self.used_bytes >= 0
        self._freed.set()
