"""What one request gets: everything its continuations bring, in the order in which it comes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from swarm.client.profile import StepProfile
from swarm.core.errors import SwarmError
from swarm.gateway.ask import Ask
from swarm.gateway.events import Ending, Event, Piece, Usage
from swarm.gateway.generation import Generation, Outcome
from swarm.gateway.tool_calls import CallReader
from swarm.routing.chain import Chain


class Answer:
    """The events of all continuations of one request, for one reader.

    Attributes:
        usage: tokens so far.
    """

    def __init__(self, ask: Ask) -> None:
        self._ask = ask
        self._outcomes: asyncio.Queue[tuple[int, Outcome]] = asyncio.Queue()
        self._first: tuple[int, Outcome] | None = None
        self.generations: list[Generation] = []
        self.usage = Usage(ask.prompt_tokens, 0)

    def tell(self, index: int, outcome: Outcome) -> None:
        """An outcome of the continuation with this index came."""
        self._outcomes.put_nowait((index, outcome))

    async def begin(self) -> None:
        """Wait for the first token: from then on the chain is known.

        Raises:
            SwarmError: there is none.
        """
        self._first = await self._outcomes.get()
        if isinstance(self._first[1], SwarmError):
            raise self._first[1]

    async def events(self) -> AsyncIterator[tuple[int, Event]]:
        """Events with the index of their continuation; an `Ending` is a continuation's last.

        Raises:
            SwarmError: a continuation failed.
        """
        readers = [
            CallReader(self._ask.tools, forced=self._ask.call_is_forced)
            for _ in range(self._ask.continuations)
        ]
        open_ones = len(readers)
        while open_ones:
            index, outcome = self._first or await self._outcomes.get()
            self._first = None
            match outcome:
                case Piece():
                    for event in readers[index].add(outcome):
                        yield index, event
                case Ending():
                    open_ones -= 1
                    self.usage = Usage(self.usage.prompt_tokens, self.usage.new_tokens + outcome.tokens)
                    for event in readers[index].finish():
                        yield index, event
                    yield index, outcome
                case SwarmError():
                    raise outcome

    def interrupt(self) -> None:
        """End what still runs."""
        for generation in self.generations:
            generation.interrupt()

    @property
    def chain(self) -> Chain | None:
        """The hops of the first continuation."""
        return self.generations[0].chain if self.generations else None

    @property
    def sessions(self) -> tuple[str, ...]:
        """The ids of the first continuation's session, hop by hop."""
        return self.generations[0].sessions if self.generations else ()

    @property
    def profile(self) -> StepProfile:
        """Where the time of the first continuation's steps went."""
        return self.generations[0].profile if self.generations else StepProfile()
