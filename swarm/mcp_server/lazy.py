"""Something that takes long to make, is made when it is first asked for, and shared by all who ask."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Lazy(Generic[T]):
    """Where making fails, everybody who waits is told, and the next one makes it try again. For one event loop."""

    def __init__(self, make: Callable[[], Awaitable[T]]) -> None:
        self._make = make
        self._making: asyncio.Task[T] | None = None

    async def get(self) -> T:
        """It, made if need be; whoever stops waiting does not stop the making."""
        making = self._making
        if making is None or (making.done() and (making.cancelled() or making.exception() is not None)):
            making = self._making = asyncio.ensure_future(self._run())
        return await asyncio.shield(making)

    async def _run(self) -> T:
        return await self._make()

    @property
    def value(self) -> T | None:
        """It, if it has been made."""
        making = self._making
        if making is None or not making.done() or making.cancelled() or making.exception() is not None:
            return None
        return making.result()

    async def settled(self) -> T | None:
        """It, if it has been made or is being made successfully now."""
        if self._making is not None:
            await asyncio.wait([self._making])
        return self.value
