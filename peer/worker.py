"""Runs queued steps on the device, in the batches that the scheduler chooses."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from swarm.core.errors import SessionLost, SwarmError
from swarm.peer.device_batch import Applied, Question, Work, run_batch
from swarm.peer.executor import Done, Executor
from swarm.peer.layer_failure import error_of_layers
from swarm.peer.scheduler import Waiting, choose_batch, choose_next, linger_s
from swarm.peer.sessions import HopSession
from swarm.shards.step import Step, StepTensors
from swarm.wire.messages import StepMessage

Result = TypeVar("Result")
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


@dataclass(frozen=True, slots=True)
class _Queued:
    """Waiting work; `done(result, error, queue_s, compute_s)` hears what became of it."""

    waiting: Waiting
    session: HopSession
    work: Work
    done: Callable[[object, BaseException | None, float, float], None]


class Worker:
    """Queue in front of the executor. For the event loop only; `deliver` is called there for every finished step.

    `batch_tokens` None means that sessions run one by one.
    """

    def __init__(
        self, executor: Executor, deliver: Callable[[Finished], None], batch_tokens: int | None
    ) -> None:
        self._executor = executor
        self._deliver = deliver
        self._batch_tokens = batch_tokens
        self._queue: list[_Queued] = []
        self._running = False
        self._starting = False
        self._recent: deque[frozenset[bytes]] = deque(maxlen=RECENT_BATCHES)
        self.decode_s: float | None = None
        self.computed_tokens = 0

    @property
    def queue_s(self) -> float:
        """What a new step would wait, roughly, in seconds: batches ahead of it times the usual time of one."""
        ahead = len(self._queue) if self._batch_tokens is None else min(len(self._queue), 1)
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

        self._enqueue(session, step.tensors.rows * step.tensors.tokens, step, done)

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

        self._enqueue(session, 1, Question(question), done)
        return future

    def forget(self, session: HopSession) -> None:
        """Drop what is queued for a session that ended."""
        self._recent = deque((batch - {session.id} for batch in self._recent), maxlen=RECENT_BATCHES)
        gone = [queued for queued in self._queue if queued.session is session]
        self._queue = [queued for queued in self._queue if queued.session is not session]
        for queued in gone:
            queued.done(None, SessionLost("the session was closed"), 0.0, 0.0)

    def _enqueue(
        self,
        session: HopSession,
        tokens: int,
        work: Work,
        done: Callable[[object, BaseException | None, float, float], None],
    ) -> None:
        self._queue.append(_Queued(Waiting(session.id, tokens, time.monotonic()), session, work, done))
        if self._running or self._starting:
            return
        if self._recent and all(batch == {session.id} for batch in self._recent):
            self._start_next()  # it has been alone for a while: nobody to wait for
            return
        # not at once: what the same read of a socket brought shall run together
        self._starting = True
        asyncio.get_running_loop().call_soon(self._start_or_linger)

    def _start_or_linger(self) -> None:
        wait_s = 0.0
        if self._batch_tokens is not None:
            waiting = {queued.waiting.session for queued in self._queue}
            wait_s = linger_s(waiting, frozenset().union(*self._recent), self.decode_s or 0.0)
        if wait_s:
            asyncio.get_running_loop().call_later(wait_s, self._start_next)
        else:
            self._start_next()

    def _start_next(self) -> None:
        self._starting = False
        if self._running or not self._queue:
            return
        now = time.monotonic()
        waiting = [queued.waiting for queued in self._queue]
        if self._batch_tokens is None:
            chosen = [choose_next(waiting, now)]
        else:
            chosen = choose_batch(waiting, now, self._batch_tokens)
        batch = [self._queue[index] for index in chosen]
        taken = set(chosen)
        self._queue = [queued for index, queued in enumerate(self._queue) if index not in taken]
        self._running = True
        self._recent.append(frozenset(queued.waiting.session for queued in batch))
        works = [(queued.session.shard, queued.work) for queued in batch]
        is_quick = len(batch) == 1 and batch[0].waiting.is_short and (self.decode_s or 1.0) < QUICK_S
        use = self._executor.run_here if is_quick and self._executor.is_idle else self._executor.submit
        use(lambda: run_batch(works), self._finish(batch, now))

    def _finish(self, batch: Sequence[_Queued], started_s: float) -> Done:
        def done(results: Any, error: BaseException | None) -> None:
            self._running = False
            compute_s = time.monotonic() - started_s
            found: list[object] = [error] * len(batch) if error is not None else results
            self._measure(batch, found, compute_s)
            self._start_next()
            for queued, result in zip(batch, found, strict=True):
                failure = result if isinstance(result, BaseException) else None
                queued.done(result, failure, started_s - queued.waiting.arrived_s, compute_s)

        return done

    def _measure(self, batch: Sequence[_Queued], results: Sequence[object], compute_s: float) -> None:
        computed = any(isinstance(result, Applied) and result.computed_tokens for result in results)
        if computed and all(queued.waiting.is_short for queued in batch):
            self.decode_s = compute_s if self.decode_s is None else 0.9 * self.decode_s + 0.1 * compute_s
