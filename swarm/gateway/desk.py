"""Takes what requests ask for, and has it generated: many sessions at once, no more than agreed."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

from torch import Tensor

from swarm.core.errors import SwarmError
from swarm.gateway.account import Account, Outcome, Times
from swarm.gateway.admission import Admission
from swarm.gateway.answer import Answer
from swarm.gateway.ask import Ask, Sampling
from swarm.gateway.encoding import Encoding
from swarm.gateway.events import Piece
from swarm.gateway.generation import Generation, LinedModel
from swarm.gateway.generation import Outcome as GenerationOutcome
from swarm.gateway.meter import Meter
from swarm.gateway.origin import Origin
from swarm.gateway.pooling import Pooling
from swarm.gateway.vocabulary import Vocabulary


class Desk:
    """For one event loop; the threads that generate are its own.

    Args:
        tell: hears what became of each request.
        speculates: whether answers draft tokens from their own text.
    """

    def __init__(
        self,
        model: LinedModel,
        vocabulary: Vocabulary,
        admission: Admission,
        meter: Meter,
        tell: Callable[[Account], None] = Account.log,
        *,
        speculates: bool = False,
    ) -> None:
        self.model = model
        self._vocabulary = vocabulary
        self._meter = meter
        self._tell = tell
        self._speculates = speculates
        threads = admission.slots + 1  # the probe has one, too
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="generation")
        self._running: set[Generation | Encoding] = set()
        self.admission = admission

    @asynccontextmanager
    async def open(self, ask: Ask, origin: Origin | None = None) -> AsyncIterator[Answer]:
        """Wait for a turn and begin to generate; whoever leaves the context early interrupts it.

        Raises:
            ApiError: there is no room.
        """
        came_s, came_ns = self._meter.now_s, time.time_ns()
        await self.admission.acquire(ask.continuations)
        queue_s = self._meter.now_s - came_s
        self._meter.waited(queue_s)
        timing = self._meter.timing(ask.prompt_tokens, came_s)
        answer = Answer(ask)

        def ended(outcome: Outcome) -> float:
            took_s = timing.ended(outcome)
            times = Times(came_ns, queue_s, timing.first_token_s, took_s)
            self._tell(Account.of(answer, times, outcome, origin or Origin()))
            return took_s - queue_s

        try:
            self._start(answer, ask, timing.token, lambda: self.admission.release(1))
            yield answer
        except SwarmError:
            ended("failed")
            raise
        except BaseException:
            ended("gone")
            raise
        else:
            self.admission.took(ended("done"))
        finally:
            answer.interrupt()

    async def encode(
        self, pooling: Pooling, texts: Sequence[Sequence[int]], *, origin: Origin
    ) -> list[Tensor]:
        """A vector for each text, once it is this request's turn; giving up interrupts it.

        Raises:
            SwarmError: there is no room, or no chain.
        """
        came_s, came_ns = self._meter.now_s, time.time_ns()
        await self.admission.acquire(1)
        queue_s = self._meter.now_s - came_s
        self._meter.waited(queue_s)
        tokens = sum(map(len, texts))
        timing = self._meter.timing(tokens, came_s)
        outcome: Outcome = "gone"
        encoding = Encoding(self.model, pooling, texts)
        future = asyncio.get_running_loop().run_in_executor(self._threads, encoding.run)
        self._running.add(encoding)
        future.add_done_callback(partial(self._ended, encoding, lambda: self.admission.release(1)))
        try:
            vectors = await asyncio.shield(future)
            outcome = "done"
        except SwarmError:
            outcome = "failed"
            raise
        finally:
            encoding.interrupt()
            times = Times(came_ns, queue_s, None, timing.ended(outcome))
            self._tell(Account.of_texts(tokens, times, outcome, origin))
        return vectors

    async def probe(self) -> None:
        """Generate one token, without waiting for a turn.

        Raises:
            SwarmError: none comes.
        """
        token = self._vocabulary.padding or 0
        ask = Ask(prompts=((token,),), max_tokens=1, sampling=Sampling(temperature=0))
        answer = Answer(ask)
        try:
            self._start(answer, ask, self._meter.token, lambda: None)
            await answer.begin()
        finally:
            answer.interrupt()

    def _start(
        self, answer: Answer, ask: Ask, at_token: Callable[[], None], at_end: Callable[[], None]
    ) -> None:
        """Give every continuation a thread. `at_end` is called once for each, when its session has ended."""
        loop = asyncio.get_running_loop()
        for index in range(ask.continuations):
            tell = partial(_pass_on, answer, index, at_token)
            generation = Generation(
                self.model, self._vocabulary, ask, index, tell, speculates=self._speculates
            )
            answer.generations.append(generation)
            self._running.add(generation)
            future = loop.run_in_executor(self._threads, generation.run)
            future.add_done_callback(partial(self._ended, generation, at_end))

    def _ended(
        self, work: Generation | Encoding, at_end: Callable[[], None], future: asyncio.Future[Any]
    ) -> None:
        self._running.discard(work)
        future.exception()  # whoever still waits is told by the future itself
        at_end()

    async def close(self) -> None:
        """Interrupt everything and let the threads end."""
        self.admission.close()
        for work in list(self._running):
            work.interrupt()
        await asyncio.to_thread(self._threads.shutdown)


def _pass_on(answer: Answer, index: int, at_token: Callable[[], None], outcome: GenerationOutcome) -> None:
    if isinstance(outcome, Piece) and outcome.is_token:
        at_token()
    answer.tell(index, outcome)
