"""Runs queued steps on the device, in the batches that the scheduler chooses."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from functools import partial
from operator import attrgetter
from typing import Any, NamedTuple, TypeVar

from swarm.core.errors import SessionLost, SwarmError
from swarm.peer.awaited import Awaited
from swarm.peer.device_batch import Applied, Question, run_batch
from swarm.peer.executor import Done, Executor
from swarm.peer.hop_session import HopSession
from swarm.peer.layer_failure import error_of_layers
from swarm.peer.pace import Pace
from swarm.peer.queued import Queued, Turn
from swarm.peer.scheduler import DECODE_TOKENS
from swarm.peer.tally import Tally
from swarm.shards.ahead import TokenMemory
from swarm.shards.session import ShardSession
from swarm.shards.step import Step, StepTensors
from swarm.wire.step_messages import StepMessage

Result = TypeVar("Result")
logger = logging.getLogger(__name__)
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
    awaited: Awaited | None = None


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
        self._clock = clock
        self._pace = Pace(batch_tokens, together=together)
        self._queue: list[Queued] = []
        self._running = False
        self._idle_since_s = clock()
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
    def decode_lately_s(self) -> float | None:
        """What a batch of decode steps takes, in seconds, if one ran lately."""
        return self._pace.share.decode_lately_s(self._clock())

    @property
    def prefill_lately_s(self) -> float | None:
        """What each token of a long prompt takes, in seconds, if one ran lately."""
        return self._pace.share.prefill_lately_s(self._clock())

    @property
    def queue_s(self) -> float:
        """What a new step would wait, roughly, in seconds."""
        return self._pace.queue_s(len(self._queue))

    def forget_rates(self) -> None:
        """See `Pace.forget_rates`."""
        self._pace.forget_rates()

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

    def is_free_for(self, session: HopSession) -> bool:
        """Whether a decode step of this session would run at once, and in the calling thread."""
        is_idle = not self._queue and not self._running and self._executor.is_idle
        return is_idle and self._pace.is_quick and self._pace.absences.is_alone(session.id)

    def run_next(self, session: HopSession, message: StepMessage, awaited: Awaited) -> None:
        """Run the token that a session is ready for, while the device `is_free_for` it.

        Its output leaves before the books are kept.
        """
        began_s = self._clock()

        def done(output: Any, error: BaseException | None) -> None:
            now = self._idle_since_s = self._clock()
            took_s = now - began_s
            if error is not None:
                self._deliver(Finished(session, message, None, error_of_layers(error), 0.0, took_s))
            else:
                tensors = StepTensors(output)
                try:
                    self._deliver(Finished(session, message, tensors, None, 0.0, took_s, awaited))
                finally:
                    session.shard.next.finish(message.number, tensors)
                self._tally.ran(0.0, took_s, 1)
                self._pace.share.ran(1, (session.id,), True, took_s, now)
            self._tally.turn(1, 1)
            self._pace.absences.came(session.id, began_s)
            self._pace.absences.left(session.id, now)
            if session.closed:
                self._pace.forget(session.id)
            self._look_ahead(session)

        self._executor.run_here(partial(session.shard.next.run, awaited.memory.hidden), done)

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
        self._pace.forget(session.id)
        gone = [queued for queued in self._queue if queued.session is session]
        self._queue = [queued for queued in self._queue if queued.session is not session]
        for queued in gone:
            queued.end(None, SessionLost("the session was closed"))

    def _enqueue(self, queued: Queued) -> None:
        self._pace.absences.came(queued.session.id, queued.arrived_s)
        self._queue.append(queued)
        if self._running:
            return
        if self._pace.absences.is_alone(queued.session.id) and len(self._queue) == 1:
            self._set_timer(None)
            self._start_lone(queued)
        else:  # not at once: what the same read of a socket brought shall run together
            self._set_timer(asyncio.get_running_loop().call_soon(self._start_or_wait))

    def _start_or_wait(self) -> None:
        """Start the next batch, or wait for those who will be back soon."""
        self._set_timer(None)
        if self._running or not self._queue:
            return
        waiting = [queued.waiting for queued in self._queue]
        pause_s = self._pace.pause_s(waiting, self._clock(), self._idle_since_s)
        if pause_s:
            self._set_timer(asyncio.get_running_loop().call_later(max(pause_s, _TICK_S), self._start_or_wait))
        else:
            self._start_next()

    def _set_timer(self, timer: asyncio.Handle | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = timer

    def _start_lone(self, queued: Queued) -> None:
        """Run what a session that decodes alone waits for; in the calling thread if that is worth it."""
        tokens = queued.waiting.tokens
        if tokens <= DECODE_TOKENS:
            self._run(
                [(queued, tokens)], queued.arrived_s, here=self._pace.is_quick and self._executor.is_idle
            )
        else:
            self._start_next()

    def _start_next(self) -> None:
        """Run what the scheduler chooses."""
        now = self._clock()
        waiting = [queued.waiting for queued in self._queue]
        portions = self._pace.choose(waiting, now)
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
                self._pace.share.ran(turn.tokens, turn.decoded, turn.is_short, took_s, now, turn.begun)
            for queued in turn.queued:
                self._pace.absences.left(queued.session.id, now)
                if queued.session.closed:
                    self._pace.forget(queued.session.id)
            if goes_on:
                self._requeue(left)
                self._start_or_wait()
                turn.settle()
            elif (session := turn.of_one_token) is not None:
                self._look_ahead(session)

        return done

    def _look_ahead(self, session: HopSession) -> None:
        """Use the time until the next token of a session that decodes alone."""
        idle = not self._queue and not self._running and self._executor.is_idle
        if idle and not session.closed and session.shard.shard.looks_ahead:
            run = self._executor.run_here if self._pace.is_quick else self._executor.submit
            memory = None if session.awaited is None else session.awaited.memory
            run(partial(_prepare_next, session.shard, memory), _log_failure)

    def _requeue(self, begun: Sequence[Queued]) -> None:
        """Long steps of which only a portion has run go back to where they stood, in the order of arrival."""
        for queued in begun:
            if queued.session.closed:
                queued.end(None, SessionLost("the session was closed"))
        going_on = [queued for queued in begun if not queued.session.closed]
        self._queue = sorted([*going_on, *self._queue], key=attrgetter("arrived_s"))


def _prepare_next(session: ShardSession, memory: TokenMemory | None) -> None:
    session.next.prepare(session.shard.recording(session.span), memory)


def _log_failure(_: object, error: BaseException | None) -> None:
    if error is not None:
        logger.error("a step could not be prepared", exc_info=error)
