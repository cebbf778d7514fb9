"""Moves a peer to the layers that stand in a file, whenever that changes: what an operator decides, not placement."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Protocol

from swarm.core.span import Span

logger = logging.getLogger(__name__)
LOOK_S = 0.25


class Orderable(Protocol):
    """A peer that goes where it is told."""

    @property
    def span(self) -> Span: ...

    async def claim(self, span: Span) -> None:
        """Tell others that it is on its way to `span`; it serves on where it is."""
        ...

    async def go(self, span: Span) -> None:
        """Hand its sessions over, load `span` and serve there."""
        ...


class Orders:
    """Reads `A:B` from `path` again and again; a file that is not there orders nothing.

    Args:
        n_layers: how many the model has.
    """

    def __init__(
        self,
        path: Path,
        peer: Orderable,
        n_layers: int,
        *,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._path = path
        self._peer = peer
        self._n_layers = n_layers
        self._sleep = sleep
        self._known: str | None = None

    async def run(self) -> None:
        """For ever; an order is carried out once, and one that cannot be is logged."""
        while True:
            text = self._read()
            if text and text != self._known:
                self._known = text
                await self._obey(text)
            await self._sleep(LOOK_S)

    def _read(self) -> str | None:
        try:
            return self._path.read_text(encoding="utf-8").strip()
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            logger.warning("%s cannot be read: %s", self._path, error)
            return None

    async def _obey(self, text: str) -> None:
        own = self._peer.span
        try:
            span = Span.parse(text)
        except ValueError as error:
            logger.error("%s: %s; stays at %s", self._path, error, own)
            return
        if span == own:
            return
        if objection := self._objection(span):
            logger.error("%s: %s; stays at %s", self._path, objection, own)
            return
        await self._peer.claim(span)
        await self._peer.go(span)

    def _objection(self, span: Span) -> str:
        """Why these layers cannot be served; empty if they can, as far as numbers tell."""
        if span.end > self._n_layers:
            return f"layers {span} asked for, but the model has only layers 0:{self._n_layers}"
        if len(span) != len(self._peer.span):
            return f"{len(span)} layers asked for, but room was made for {len(self._peer.span)}"
        return ""
