"""Runs queued steps on the device, in the batches that the scheduler chooses."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from swarm.core.errors import SessionLost, SwarmError
from swarm.peer.device_batch import Applied, Question, run_batch
from swarm.peer.executor import Done, Executor
from swarm.peer.layer_failure import error_of_layers
from swarm.peer.prefill_share import PrefillShare
from swarm.peer.queued import Queued
from swarm.peer.scheduler import choose_batch, choose_one, linger_s, long_head
from swarm.peer.sessions import HopSession
from swarm.shards.step import Step, StepTensors
from swarm.wire.messages import StepMessage

Result = TypeVar("Result")
logger = logging.getLogger(__name__)
RECENT_BATCHES = 4
QUICK_S = 0.003  # the way to the device's thread and back takes 0.2 ms


@dataclass(frozen=True, slots=True)
class Finished:
    """A step that ran or failed: its output or the error, and what it cost in seconds.

    Every step that was submitted is finished exactly once, also when its session ends before.
    """

    session: HopSession
    message: StepMessage
    output: StepTensors | None
    error: SwarmError | None
    queue_s: float
    compute_s: float


class Worker:
    """Queue in front of the executor. For the event loop only; `deliver` is called there for every finished step.

    `batch_tokens` is how many tokens of prompts run at once; `together` whether sessions run in one batch.
    """

    def __init__(
        self,
        executor: Executor,
        deliver: Callable[[Finished], None],
        batch_tokens: int,
        *,
        together: bool = True,
    ) -> None:
        self._executor = executor
        self._deliver = deliver
        self._together = together
        self._share = PrefillShare(batch_tokens)
        self._queue: list[Queued] = []
        self._running = False
        self._starting = False
        self._recent: deque[frozenset[bytes]] = deque(maxlen=RECENT_BATCHES)
        self.computed_tokens = 0

    @property
    def decode_s(self) -> float | None:
        """What a batch of decode steps takes, in seconds."""
        return self._share.decode_s

    @property
    def queue_s(self) -> float:
        """What a new step would wait, roughly, in seconds: batches ahead of it times the usual time of one."""
        ahead = min(len(self._queue), 1) if self._together else len(self._queue)
        return ahead * (self.decode_s or 0.0)

    def submit(self, session: HopSession, message: StepMessage, step: Step) -> None:
        """Queue one step."""

        def done(result: object, error: BaseException | None, queue_s: float, compute_s: float) -> None:
            if isinstance(result, Applied):
                self.computed_tokens += result.computed_tokens
                self._deliver(Finished(session, message, result.output, None, queue_s, compute_s))
            else:
                assert error is not None
                self._deliver(Finished(session, message, None, error_of_layers(error), queue_s, compute_s))

        self._enqueue(Queued(session, step, time.monotonic(), done))

    def ask(self, session: HopSession, question: Callable[[], Result]) -> asyncio.Future[Result]:
        """Run `question` in the device's thread after every step queued for this session before.

        Raises:
            SessionLost: if the session ends before its turn comes.
        """
        future: asyncio.Future[Result] = asyncio.get_running_loop().create_future()

        def done(result: Any, error: BaseException | None, queue_s: float, compute_s: float) -> None:
            if future.cancelled():
                return
            if error is not None:
                future.set_exception(error_of_layers(error))
            else:
                future.set_result(result)

        self._enqueue(Queued(session, Question(question), time.monotonic(), done))
        return future

    def forget(self, session: HopSession) -> None:
        """Drop what is queued for a session that ended."""
        self._recent = deque((batch - {session.id} for batch in self._recent), maxlen=RECENT_BATCHES)
        gone = [queued for queued in self._queue if queued.session is session]
        self._queue = [queued for queued in self._queue if queued.session is not session]
        for queued in gone:
            queued.end(None, SessionLost("the session was closed"))

    def _enqueue(self, queued: Queued) -> None:
        self._queue.append(queued)
        if self._running or self._starting:
            return
        if self._recent and all(batch == {queued.session.id} for batch in self._recent):
            self._start_next(here=True)  # it has been alone for a while: nobody to wait for
            return
        # not at once: what the same read of a socket brought shall run together
        self._starting = True
        asyncio.get_running_loop().call_soon(self._start_or_linger)

    def _start_or_linger(self) -> None:
        wait_s = 0.0
        if self._together:
            waiting = {queued.session.id for queued in self._queue}
            wait_s = linger_s(waiting, frozenset().union(*self._recent), self.decode_s or 0.0)
        if wait_s:
            asyncio.get_running_loop().call_later(wait_s, self._start_next)
        else:
            self._start_next()

    def _start_next(self, here: bool = False) -> None:
        """Run what the scheduler chooses; in the calling thread if that is worth it and it may be `here`."""
        self._starting = False
        if self._running or not self._queue:
            return
        now = time.monotonic()
        waiting = [queued.waiting for queued in self._queue]
        long = long_head(waiting)
        budget = self._share.budget(long, now) if long is not None else 0
        choose = choose_batch if self._together else choose_one
        batch = [(self._queue[portion.index], portion.tokens) for portion in choose(waiting, now, budget)]
        taken = {id(queued) for queued, _ in batch}
        self._queue = [queued for queued in self._queue if id(queued) not in taken]
        self._running = True
        self._recent.append(frozenset(queued.session.id for queued, _ in batch))
        works = [(queued.session.shard, queued.portion(tokens)) for queued, tokens in batch]
        short = all(queued.waiting.is_short for queued, _ in batch)
        is_quick = here and len(batch) == 1 and short and (self.decode_s or 1.0) < QUICK_S
        run = self._executor.run_here if is_quick and self._executor.is_idle else self._executor.submit
        run(lambda: run_batch(works), self._finish(batch, short, now))

    def _finish(self, batch: Sequence[tuple[Queued, int]], short: bool, started_s: float) -> Done:
        def done(results: Any, error: BaseException | None) -> None:
            self._running = False
            now = time.monotonic()
            found: list[object] = [error] * len(batch) if error is not None else results
            if any(isinstance(result, Applied) and result.computed_tokens for result in found):
                sizes = {queued.session.id: tokens for queued, tokens in batch}
                self._share.ran(sizes, short, now - started_s, now)
            ended = [(queued, result) for (queued, _), result in zip(batch, found, strict=True)]
            self._requeue([queued for queued, result in ended if not queued.take(result, started_s, now)])
            self._start_next()
            for queued, _ in ended:
                queued.settle_if_done()
            if len(ended) == 1 and short:
                self._look_ahead(ended[0][0])

        return done

    def _look_ahead(self, queued: Queued) -> None:
        """Use the time until the next token of a session that decodes alone."""
        session = queued.session
        is_step = isinstance(queued.work, Step) and queued.work.tensors.tokens == 1
        idle = not self._queue and not self._running and self._executor.is_idle
        if is_step and idle and not session.closed and session.shard.shard.looks_ahead:
            quick = (self.decode_s or 1.0) < QUICK_S
            run = self._executor.run_here if quick else self._executor.submit
            run(session.shard.prepare_next, _log_failure)

    def _requeue(self, begun: Sequence[Queued]) -> None:
        """Long steps of which only a portion has run go on before what came later."""
        for queued in begun:
            if queued.session.closed:
                queued.end(None, SessionLost("the session was closed"))
        self._queue[:0] = [queued for queued in begun if not queued.session.closed]


def _log_failure(_: object, error: BaseException | None) -> None:
    if error is not None:
        logger.error("a step could not be prepared", exc_info=error)
