"""SIGINT and SIGTERM while a peer starts, serves and leaves.

starting --any--> ends at once, there is nothing to drain
serving  --first--> `first`: leave in order --second--> `second`: leave at once --third--> ends as it stands
"""

from __future__ import annotations

import asyncio
import signal


class StopSignals:
    """Takes the signals from its making until `uninstall`; made by the task that serves."""

    def __init__(self) -> None:
        self.first = asyncio.Event()
        self.second = asyncio.Event()
        self.interrupted = False
        self._serving = False
        task = asyncio.current_task()
        assert task is not None
        self._task = task
        self._loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            self._loop.add_signal_handler(number, self.arrived)

    def serving(self) -> None:
        """From now on there is something to leave in order."""
        self._serving = True

    def arrived(self) -> None:
        """One signal came."""
        if not self._serving or self.second.is_set():
            self.interrupted = True
            self._task.cancel()
        elif self.first.is_set():
            self.second.set()
        else:
            self.first.set()

    def uninstall(self) -> None:
        """Give the signals back."""
        for number in (signal.SIGINT, signal.SIGTERM):
            self._loop.remove_signal_handler(number)
