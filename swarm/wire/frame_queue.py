"""Frames that wait for their handler: one at a time, in the order in which they came.

A frame that nothing is in front of is handed to the handler in the callback that read it. What the handler cannot
finish there, and all that comes meanwhile, is done by the task that runs the queue.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable

from swarm.wire.frames import Frame
from swarm.wire.message import Message

Handle = Callable[[Message, memoryview], Awaitable[None] | None]
Report = Callable[[Frame, Exception], Awaitable[None]]

_MAX_QUEUED_FRAMES = 64
_MAX_QUEUED_BYTES = 32 << 20


class FrameQueue:
    """Hands messages with their payloads to `handle`, and what that raises to `report`.

    `on_full(True)` asks to read no further for now.
    """

    def __init__(self, handle: Handle, report: Report, on_full: Callable[[bool], None]) -> None:
        self._handle = handle
        self._report = report
        self._on_full = on_full
        self._waiting: deque[Frame] = deque()
        self._waiting_bytes = 0
        self._begun: Awaitable[None] | None = None  # what is left to do of the first one
        self._arrived: asyncio.Future[None] | None = None
        self._running = False
        self._closed = False

    def put(self, frame: Frame) -> None:
        """A frame has come."""
        if self._running and not self._waiting:
            self._begun = self._begin(frame)
            if self._begun is None:
                return
        self._waiting.append(frame)
        self._waiting_bytes += frame.payload.nbytes
        if self._is_full():
            self._on_full(True)
        self._wake()

    def close(self) -> None:
        """Nothing more will come: `run` returns once what waits is done."""
        self._closed = True
        self._wake()

    async def run(self) -> None:
        """Deal with frames until the queue is closed and empty."""
        self._running = True
        try:
            while self._waiting or not self._closed:
                if self._waiting:
                    await self._finish_first()
                else:
                    self._arrived = asyncio.get_running_loop().create_future()
                    await self._arrived
        finally:
            self._running = False
            if asyncio.iscoroutine(self._begun):
                self._begun.close()

    async def _finish_first(self) -> None:
        frame = self._waiting[0]
        begun, self._begun = self._begun or self._begin(frame), None
        try:
            if begun is not None:
                await begun
        except Exception as error:
            await self._report(frame, error)
        self._waiting.popleft()  # not before: what came meanwhile stands behind it
        self._waiting_bytes -= frame.payload.nbytes
        if not self._is_full(half=True):
            self._on_full(False)

    def _begin(self, frame: Frame) -> Awaitable[None] | None:
        try:
            return self._handle(frame.message, frame.payload)
        except Exception as error:
            return self._report(frame, error)

    def _is_full(self, half: bool = False) -> bool:
        share = 2 if half else 1
        many = len(self._waiting) * share > _MAX_QUEUED_FRAMES
        return many or self._waiting_bytes * share > _MAX_QUEUED_BYTES

    def _wake(self) -> None:
        if self._arrived is not None and not self._arrived.done():
            self._arrived.set_result(None)
