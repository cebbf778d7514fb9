"""Looking up keys in a Kademlia DHT: ask the known nodes nearest to each key, learn nearer ones, until none is nearer.

Written anew rather than taken from hivemind, whose search hangs when a node answers with a value of a wrong shape, and
waits for hung nodes one after the other. Every key is read from all of its nearest nodes, so that what was just
published or withdrawn is seen although some copies are old.
"""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, NamedTuple, TypeVar

WIDTH = 10  # nodes asked per key; records stand on the 5 nearest
_PARALLEL = 16
_MAX_QUESTIONS = 400
_MAX_NEIGHBOURS = 32

PeerT = TypeVar("PeerT")
# key -> (value or None, neighbours: node id -> peer); None if the node did not answer
Answers = Mapping[Any, tuple[Any, Mapping[Any, PeerT]]] | None
Ask = Callable[[PeerT, Collection[Any]], Awaitable[Answers[PeerT]]]


class Found(NamedTuple, Generic[PeerT]):
    """What a search brought: values of the nearest nodes, unchecked and in no particular order, and the nodes that
    answered."""

    values: list[Any]
    nodes: dict[Any, PeerT]


def nearest(nodes: Iterable[Any], key: Any, count: int) -> list[Any]:
    """The `count` ids nearest to `key` by Kademlia's distance, the exclusive or."""
    return heapq.nsmallest(count, nodes, key=lambda node: int(node) ^ int(key))


async def search(ask: Ask[PeerT], start: Mapping[Any, PeerT], keys: Collection[Any]) -> Found[PeerT]:
    """Find the nodes nearest to each key, and all values that they hold under it.

    Args:
        ask: asks one peer for keys; returns None where there is no answer, raises nothing.
        start: the nodes known at the beginning, by their id (an integer, as keys are).
    """
    lookup: _Lookup[PeerT] = _Lookup(dict(start))
    running: dict[asyncio.Task[Answers[PeerT]], Any] = {}
    try:
        while True:
            for node, its_keys in lookup.questions(keys):
                if len(running) >= _PARALLEL or len(lookup.asked) >= _MAX_QUESTIONS:
                    break
                lookup.asked.update((node, key) for key in its_keys)
                running[asyncio.ensure_future(ask(lookup.known[node], its_keys))] = node
            if not running:
                return Found(lookup.values, lookup.answered)
            done, _ = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                lookup.take(running.pop(task), task.result())
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)


@dataclass
class _Lookup(Generic[PeerT]):
    """What a search knows so far: nodes that may be asked, that answered, and that did not."""

    known: dict[Any, PeerT]
    answered: dict[Any, PeerT] = field(default_factory=dict)
    silent: set[Any] = field(default_factory=set)
    asked: set[tuple[Any, Any]] = field(default_factory=set)
    values: list[Any] = field(default_factory=list)

    def questions(self, keys: Collection[Any]) -> Iterator[tuple[Any, list[Any]]]:
        """Which node to ask for which keys next: the nearest to each key that were not asked for it yet."""
        wanted: dict[Any, list[Any]] = {}
        for key in keys:
            for node in nearest(self.known, key, WIDTH):
                if (node, key) not in self.asked:
                    wanted.setdefault(node, []).append(key)
        yield from wanted.items()

    def take(self, node: Any, answers: Answers[PeerT]) -> None:
        """Learn from an answer; a node without one is forgotten, so that the next nearest takes its place."""
        if answers is None:
            self.silent.add(node)
            self.known.pop(node, None)
            self.answered.pop(node, None)
            return
        if node in self.known:
            self.answered[node] = self.known[node]
        for value, neighbours in answers.values():
            if value is not None:
                self.values.append(value)
            for neighbour, peer in list(neighbours.items())[:_MAX_NEIGHBOURS]:
                if neighbour not in self.silent:
                    self.known.setdefault(neighbour, peer)
