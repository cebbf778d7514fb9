"""Takes what requests ask for, and has it generated: many sessions at once, no more than agreed."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from functools import partial

from swarm.client.profile import StepProfile
from swarm.core.errors import SwarmError
from swarm.gateway.admission import Admission
from swarm.gateway.ask import Ask
from swarm.gateway.events import Ending, Event, Piece, Usage
from swarm.gateway.generation import Generation, LinedModel, Outcome
from swarm.gateway.tool_calls import CallReader
from swarm.gateway.vocabulary import Vocabulary
from swarm.routing.chain import Chain


class Answer:
    """What one request gets: the events of all its continuations, as they come.

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
            CallReader(self._ask.tools, forced=self._ask.call_is_forced) for _ in range(self._ask.continuations)
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

    @property
    def chain(self) -> Chain | None:
        """The hops of the first continuation."""
        return self.generations[0].chain if self.generations else None

    @property
    def profile(self) -> StepProfile:
        """Where the time of the first continuation's steps went."""
        return self.generations[0].profile if self.generations else StepProfile()


class Desk:
    """For one event loop; the model's threads are its own."""

    def __init__(self, model: LinedModel, vocabulary: Vocabulary, admission: Admission) -> None:
        self._model = model
        self._vocabulary = vocabulary
        self._threads = ThreadPoolExecutor(admission.slots, thread_name_prefix="generation")
        self._running: set[Generation] = set()
        self.admission = admission

    @asynccontextmanager
    async def open(self, ask: Ask) -> AsyncIterator[Answer]:
        """Wait for a turn and begin to generate; whoever leaves the context early interrupts it.

        Raises:
            ApiError: there is no room.
        """
        await self.admission.acquire(ask.continuations)
        began_s = time.monotonic()
        answer = Answer(ask)
        try:
            for index in range(ask.continuations):
                answer.generations.append(self._start(answer, ask, index))
        except BaseException:
            self.admission.release(ask.continuations - len(answer.generations))
            raise
        try:
            yield answer
            self.admission.took(time.monotonic() - began_s)
        finally:
            for generation in answer.generations:
                generation.interrupt()

    def _start(self, answer: Answer, ask: Ask, index: int) -> Generation:
        prompt, continuation = divmod(index, ask.count)
        generation = Generation(
            self._model,
            self._vocabulary,
            ask,
            ask.prompts[prompt],
            continuation,
            partial(answer.tell, index),
        )
        future = asyncio.get_running_loop().run_in_executor(self._threads, generation.run)
        self._running.add(generation)
        future.add_done_callback(lambda _: self._ended(generation))
        return generation

    def _ended(self, generation: Generation) -> None:
        self._running.discard(generation)
        self.admission.release(1)

    def close(self) -> None:
        """Interrupt everything and let the threads end."""
        self.admission.close()
        for generation in list(self._running):
            generation.interrupt()
        self._threads.shutdown(wait=True)
