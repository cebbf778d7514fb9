"""Runs queued steps on the device, in the batches that the scheduler chooses."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar

from swarm.core.errors import SessionLost, SwarmError
from swarm.peer.absences import Absences
from swarm.peer.device_batch import Applied, Question, run_batch
from swarm.peer.executor import Done, Executor
from swarm.peer.layer_failure import error_of_layers
from swarm.peer.prefill_share import PrefillShare
from swarm.peer.queued import Queued, Turn
from swarm.peer.scheduler import (
    DECODE_TOKENS,
    GroupSize,
    Portion,
    Waiting,
    choose_batch,
    choose_one,
    group_size,
    long_heads,
    wait_s,
)
from swarm.peer.sessions import HopSession
from swarm.peer.tally import Tally
from swarm.shards.step import Step, StepTensors
from swarm.wire.step_messages import StepMessage

Result = TypeVar("Result")
logger = logging.getLogger(__name__)
QUICK_S = 0.01  # the way to the device's thread and back takes up to 1 ms
_TICK_S = 0.001  # uvloop's timers count milliseconds: below one, it would ask again and again


class Finished(NamedTuple):
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

    `batch_tokens` is how many tokens of prompts run at once; `together` whether sessions run in one batch; `clock`
    tells the time in seconds and never goes back (the event loop's own counts milliseconds); `tally` counts what runs.
    """

    def __init__(
        self,
        executor: Executor,
        deliver: Callable[[Finished], None],
        batch_tokens: int,
        *,
        together: bool = True,
        clock: Callable[[], float] = time.monotonic,
        tally: Tally | None = None,
    ) -> None:
        self._executor = executor
        self._deliver = deliver
        self._together = together
        self._clock = clock
        self._batch_tokens = batch_tokens
        self._share = PrefillShare(batch_tokens)
        self._queue: list[Queued] = []
        self._running = False
        self._idle_since_s = clock()
        self._absences = Absences()
        self._timer: asyncio.Handle | None = None
        self._tally = tally or Tally()

    @property
    def computed_tokens(self) -> int:
        """Token rows that went through the layers."""
        return self._tally.computed_tokens

    @property
    def waiting(self) -> int:
        """Steps and questions that wait for the device."""
        return len(self._queue)

    @property
    def decode_s(self) -> float | None:
        """What a batch of decode steps takes, in seconds."""
        return self._share.decode_s

    @property
    def decode_lately_s(self) -> float | None:
        """The same, unless the last one is so long ago that it says little of now."""
        return self._share.decode_lately_s(self._clock())

    @property
    def prefill_lately_s(self) -> float | None:
        """What each token of a long prompt takes, in seconds, if one ran lately."""
        return self._share.prefill_lately_s(self._clock())

    def forget_rates(self) -> None:
        """What ran so far was a test, the first steps of a cold device: it says nothing of what steps will take."""
        self._share = PrefillShare(self._batch_tokens)

    @property
    def _is_quick(self) -> bool:
        """Whether a decode step takes hardly longer than the way to the device's thread and back."""
        decode_s = self._share.decode_s
        return decode_s is not None and decode_s < QUICK_S

    @property
    def queue_s(self) -> float:
        """What a new step would wait, roughly, in seconds: batches ahead of it times the usual time of one."""
        ahead = min(len(self._queue), 1) if self._together else len(self._queue)
        return ahead * (self.decode_s or 0.0)

    def submit(self, session: HopSession, message: StepMessage, step: Step) -> None:
        """Queue one step."""

        def done(result: object, error: BaseException | None, queue_s: float, compute_s: float) -> None:
            if isinstance(result, Applied):
                self._deliver(Finished(session, message, result.output, None, queue_s, compute_s))
                self._tally.ran(queue_s, compute_s, result.computed_tokens)
            else:
                assert error is not None
                self._deliver(Finished(session, message, None, error_of_layers(error), queue_s, compute_s))

        self._enqueue(Queued(session, step, self._clock(), done))

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

        self._enqueue(Queued(session, Question(question), self._clock(), done))
        return future

    def forget(self, session: HopSession) -> None:
        """Drop what is queued for a session that ended."""
        self._forget_habits(session)
        gone = [queued for queued in self._queue if queued.session is session]
        self._queue = [queued for queued in self._queue if queued.session is not session]
        for queued in gone:
            queued.end(None, SessionLost("the session was closed"))

    def _forget_habits(self, session: HopSession) -> None:
        self._absences.forget(session.id)
        self._share.forget(session.id)

    def _enqueue(self, queued: Queued) -> None:
        self._absences.came(queued.session.id, queued.arrived_s)
        self._queue.append(queued)
        if self._running:
            return
        if self._absences.is_alone(queued.session.id) and len(self._queue) == 1:
            self._set_timer(None)
            self._start_lone(queued)
        else:  # not at once: what the same read of a socket brought shall run together
            self._set_timer(asyncio.get_running_loop().call_soon(self._start_or_wait))

    def _start_or_wait(self) -> None:
        """Start the next batch, or wait for those who will be back soon."""
        self._set_timer(None)
        if self._running or not self._queue:
            return
        pause_s = self._pause_s(self._clock())
        if pause_s:
            self._set_timer(asyncio.get_running_loop().call_later(max(pause_s, _TICK_S), self._start_or_wait))
        else:
            self._start_next()

    def _set_timer(self, timer: asyncio.Handle | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = timer

    def _pause_s(self, now_s: float) -> float:
        if not self._together or not self.decode_s:
            return 0.0
        if not all(queued.waiting.is_short for queued in self._queue):
            return 0.0
        oldest_s = min(queued.arrived_s for queued in self._queue)
        waited_s = now_s - max(oldest_s, self._idle_since_s)
        here = len({queued.session.id for queued in self._queue})
        expected = self._absences.expected(now_s)
        groups = self._groups(here, len(expected))
        pause_s = wait_s(here, expected[: max(groups.most - here, 0)], self.decode_s, groups.least)
        if here < groups.least:
            return max(min(pause_s, self.decode_s / 2 - waited_s), 0.0)
        return pause_s if waited_s + pause_s <= self.decode_s else 0.0

    def _groups(self, here: int, away: int) -> GroupSize:
        return group_size(here + away, self._absences.usual_s(), self.decode_s or 0.0)

    def _start_lone(self, queued: Queued) -> None:
        """Run what a session that decodes alone waits for; in the calling thread if that is worth it."""
        tokens = queued.waiting.tokens
        if tokens <= DECODE_TOKENS:
            self._run([(queued, tokens)], queued.arrived_s, here=self._is_quick and self._executor.is_idle)
        else:
            self._start_next()

    def _start_next(self) -> None:
        """Run what the scheduler chooses."""
        now = self._clock()
        waiting = [queued.waiting for queued in self._queue]
        prompts = long_heads(waiting)
        budget = self._share.budget(prompts[0].session, now, [p.tokens for p in prompts]) if prompts else 0
        portions = self._choose(waiting, now, budget)
        self._run([(self._queue[portion.index], portion.tokens) for portion in portions], now)

    def _run(self, batch: Sequence[tuple[Queued, int]], now_s: float, *, here: bool = False) -> None:
        turn = Turn([queued for queued, _ in batch], sum([tokens for _, tokens in batch]), now_s)
        if len(batch) == len(self._queue):
            self._queue = []
        else:
            taken = set(turn.queued)
            self._queue = [queued for queued in self._queue if queued not in taken]
        self._running = True
        works = [(queued.session.shard, queued.portion(tokens)) for queued, tokens in batch]
        run = self._executor.run_here if here else self._executor.submit
        run(lambda: run_batch(works), self._finish(turn))

    def _choose(self, waiting: Sequence[Waiting], now_s: float, budget: int) -> list[Portion]:
        if not self._together:
            return choose_one(waiting, now_s, budget)
        if len(waiting) == 1:
            return choose_batch(waiting, now_s, budget)
        here = len({work.session for work in waiting if work.is_short})
        groups = self._groups(here, len(self._absences.expected(now_s)))
        return choose_batch(waiting, now_s, budget, groups.most)

    def _finish(self, turn: Turn) -> Done:
        def done(results: Any, error: BaseException | None) -> None:
            self._running = False
            now = self._idle_since_s = self._clock()
            found: list[object] = [error] * len(turn.queued) if error is not None else results
            left = turn.end(found, now)
            goes_on = bool(self._queue or left)
            if not goes_on:  # else the device goes on first
                turn.settle()
            self._tally.turn(len(turn.queued), turn.tokens)
            if any(isinstance(result, Applied) and result.computed_tokens for result in found):
                took_s = now - turn.started_s
                self._share.ran(turn.tokens, turn.decoded, turn.is_short, took_s, now, turn.begun)
            for queued in turn.queued:
                self._absences.left(queued.session.id, now)
                if queued.session.closed:
                    self._forget_habits(queued.session)
            if goes_on:
                self._requeue(left)
                self._start_or_wait()
                turn.settle()
            elif len(turn.queued) == 1 and turn.is_short:
                self._look_ahead(turn.queued[0])

        return done

    def _look_ahead(self, queued: Queued) -> None:
        """Use the time until the next token of a session that decodes alone."""
        session = queued.session
        is_step = isinstance(queued.work, Step) and queued.work.tensors.tokens == 1
        idle = not self._queue and not self._running and self._executor.is_idle
        if is_step and idle and not session.closed and session.shard.shard.looks_ahead:
            run = self._executor.run_here if self._is_quick else self._executor.submit
            shard = session.shard.shard
            run(lambda: session.shard.prepare_next(shard.recording(session.shard.span)), _log_failure)

    def _requeue(self, begun: Sequence[Queued]) -> None:
        """Long steps of which only a portion has run go on before what came later."""
        for queued in begun:
            if queued.session.closed:
                queued.end(None, SessionLost("the session was closed"))
        self._queue[:0] = [queued for queued in begun if not queued.session.closed]


def _log_failure(_: object, error: BaseException | None) -> None:
    if error is not None:
        logger.error("a step could not be prepared", exc_info=error)
