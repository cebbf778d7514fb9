"""Runs queued steps on the device, one at a time, in the order the scheduler chooses."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from swarm.core.errors import SessionLost, SwarmError
from swarm.peer.executor import Done, Executor
from swarm.peer.layer_failure import error_of_layers
from swarm.peer.scheduler import DECODE_TOKENS, Waiting, choose_next
from swarm.peer.sessions import HopSession
from swarm.shards.step import Step, StepTensors
from swarm.wire.messages import StepMessage

Result = TypeVar("Result")


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
    waiting: Waiting
    session: HopSession
    run: Callable[[], object]
    done: Callable[[object, BaseException | None, float, float], None]


class Worker:
    """Queue in front of the executor. For the event loop only; `deliver` is called there for every finished step."""

    def __init__(self, executor: Executor, deliver: Callable[[Finished], None]) -> None:
        self._executor = executor
        self._deliver = deliver
        self._queue: list[_Queued] = []
        self._running: _Queued | None = None
        self.decode_s: float | None = None
        self.computed_tokens = 0

    @property
    def queue_s(self) -> float:
        """What a new step would wait, roughly: queued steps times the usual time of a step, in seconds."""
        return len(self._queue) * (self.decode_s or 0.0)

    def submit(self, session: HopSession, message: StepMessage, step: Step) -> None:
        """Queue one step."""
        size = step.tensors.rows * step.tensors.tokens

        def done(result: object, error: BaseException | None, queue_s: float, compute_s: float) -> None:
            if isinstance(result, _Applied):
                self._measure(size, result.computed_tokens, compute_s)
                self._deliver(Finished(session, message, result.output, None, queue_s, compute_s))
            else:
                assert error is not None
                self._deliver(Finished(session, message, None, error_of_layers(error), queue_s, compute_s))

        self._enqueue(session, size, lambda: _apply(session, step), done)

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

        self._enqueue(session, 1, question, done)
        return future

    def forget(self, session: HopSession) -> None:
        """Drop what is queued for a session that ended."""
        gone = [queued for queued in self._queue if queued.session is session]
        self._queue = [queued for queued in self._queue if queued.session is not session]
        for queued in gone:
            queued.done(None, SessionLost("the session was closed"), 0.0, 0.0)

    def _enqueue(
        self,
        session: HopSession,
        tokens: int,
        run: Callable[[], object],
        done: Callable[[object, BaseException | None, float, float], None],
    ) -> None:
        self._queue.append(_Queued(Waiting(session.id, tokens, time.monotonic()), session, run, done))
        self._start_next()

    def _start_next(self) -> None:
        if self._running is not None or not self._queue:
            return
        now = time.monotonic()
        queued = self._queue.pop(choose_next([q.waiting for q in self._queue], now))
        self._running = queued
        self._executor.submit(queued.run, self._finish(queued, now))

    def _finish(self, queued: _Queued, started_s: float) -> Done:
        def done(result: object, error: BaseException | None) -> None:
            self._running = None
            compute_s = time.monotonic() - started_s
            self._start_next()
            queued.done(result, error, started_s - queued.waiting.arrived_s, compute_s)

        return done

    def _measure(self, size: int, computed_tokens: int, compute_s: float) -> None:
        self.computed_tokens += computed_tokens
        if computed_tokens and size <= DECODE_TOKENS:
            self.decode_s = compute_s if self.decode_s is None else 0.9 * self.decode_s + 0.1 * compute_s


@dataclass(frozen=True, slots=True)
class _Applied:
    """An output, and the token rows that were computed for it (none if it had been kept)."""

    output: StepTensors
    computed_tokens: int


def _apply(session: HopSession, step: Step) -> _Applied:
    before = session.shard.counters.tokens
    output = session.shard.apply(step)
    return _Applied(output, step.tensors.rows * (session.shard.counters.tokens - before))
