"""What a session has ready for the token that probably comes next; any other step may come instead."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from swarm.shards.ahead import Foreseen, TokenMemory, prepare_flat
from swarm.shards.rehearsal import Recording, rehearse
from swarm.shards.step import Step, StepTensors

if TYPE_CHECKING:
    from swarm.shards.session import ShardSession


class NextToken:
    """The next token of one session of one row without padding. What fails within leaves the session lost."""

    def __init__(self, session: ShardSession) -> None:
        self._session = session
        self.foreseen: Foreseen | None = None
        self._bound: tuple[TokenMemory, Callable[[], None]] | None = None  # how `foreseen` runs there
        self._ran: Foreseen | None = None  # what ran last, if nothing else has happened since
        self._inference = torch.inference_mode()

    def prepare(self, recording: Recording | None = None, memory: TokenMemory | None = None) -> None:
        """Do now what the token needs besides its layers.

        `recording` may run in place of the layers; `memory` is what `run` will be given, if that is known.
        """
        if not self._session.can_look_ahead:
            return
        try:
            with self._inference:
                self.foreseen = self._prepared(recording)
                run = None if memory is None else self.foreseen.bound(memory)
        except BaseException:
            self._session.lose()
            raise
        self._bound = None if memory is None or run is None else (memory, run)

    def is_ready(self, start: int) -> bool:
        """Whether `run` has been prepared for a token at position `start`."""
        foreseen, session = self.foreseen, self._session
        return foreseen is not None and session.mask is None and start == session.length == foreseen.length

    def is_step(self, step: Step) -> bool:
        """Whether this step is the token that has been prepared for."""
        foreseen, session = self.foreseen, self._session
        return foreseen is not None and session.mask is None and foreseen.fits(step, session.length)

    def run(self, hidden: Tensor) -> Tensor:
        """The hidden state after the span for that of a token which this `is_ready` for; `finish` must follow.

        Both are `[1, 1, ...]`, of the shard's dtype and on the CPU.
        """
        foreseen = self.take()
        try:
            if self._bound is not None and self._bound[0].hidden is hidden:
                memory, run = self._bound
                run()
                return memory.output
            with self._inference:
                return self._session.run.run_foreseen(foreseen, hidden)
        except BaseException:
            self._session.lose()
            raise

    def finish(self, number: int, output: StepTensors) -> None:
        """Step `number` was that token, and `output` is what came out."""
        with self._inference:
            self._session.commit(Step(number, self._session.length, output), output)

    def take(self) -> Foreseen:
        """What has been prepared, to be run now."""
        foreseen, self.foreseen = self.foreseen, None
        assert foreseen is not None, "nothing was prepared"
        self._ran = foreseen
        return foreseen

    def interrupt(self) -> None:
        """A step begins, which may be another one."""
        self._ran = None

    def forget(self) -> None:
        """Nothing is ready any more."""
        self.foreseen = self._ran = None

    def _prepared(self, recording: Recording | None) -> Foreseen:
        session, ran, self._ran = self._session, self._ran, None
        found = ran.after() if ran is not None and ran.length == session.length - 1 else None
        if found is None and recording is not None:
            found = rehearse(session, recording)
        if found is not None:
            return found
        if recording is None and session.gains_flat():
            return prepare_flat(session)
        return session.run.note_next(session.length, session.cache)
