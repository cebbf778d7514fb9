"""Work that waits for the device, with what has been done of it already, and what of it runs together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from swarm.peer.device_batch import Applied, Work
from swarm.peer.hop_session import HopSession
from swarm.peer.scheduler import Waiting
from swarm.shards.step import Step, StepTensors


class Settle(Protocol):
    """Hears what became of work: its result or an error, and what it cost."""

    def __call__(
        self, result: object, error: BaseException | None, queue_s: float, compute_s: float
    ) -> None: ...


class Queued:
    """A step or a question of one session; `settle` is called once. Long steps may run in portions."""

    __slots__ = (
        "_applied",
        "_began_s",
        "_compute_s",
        "_is_done",
        "_is_settled",
        "_left",
        "_ran",
        "_ran_s",
        "_result",
        "_settle",
        "arrived_s",
        "session",
        "work",
    )

    def __init__(self, session: HopSession, work: Work, arrived_s: float, settle: Settle) -> None:
        self.session = session
        self.work = work
        self.arrived_s = arrived_s
        self._settle = settle
        self._applied: list[Applied] = []
        self._ran = 0  # tokens of each row
        self._ran_s: float | None = None
        self._compute_s = 0.0
        self._began_s: float | None = None
        self._result: object = None
        self._is_done = False
        self._is_settled = False
        self._left = self._waiting()

    @property
    def waiting(self) -> Waiting:
        """What is left to do, for the scheduler: next to nothing for a repeated step whose outputs have been kept."""
        return self._left._replace(tokens=1) if self._is_kept else self._left

    @property
    def _is_kept(self) -> bool:
        work, shard = self.work, self.session.shard
        if not isinstance(work, Step) or work.number != shard.last_step:
            return False
        return work.start + self._ran < shard.length

    def _waiting(self) -> Waiting:
        if not isinstance(self.work, Step):
            return Waiting(self.session.id, 1, self.arrived_s)
        rows, tokens = self.work.tensors.hidden.shape[:2]
        divisible = tokens > 1 and self.session.shard.shard.traits.chunkable
        return Waiting(self.session.id, rows * (tokens - self._ran), self.arrived_s, divisible, self._ran_s)

    def portion(self, token_rows: int) -> Work:
        """The next so many token rows of it; all that is left, if that is not more."""
        if not isinstance(self.work, Step):
            return self.work
        if token_rows >= self.waiting.tokens and not self._ran:
            return self.work
        tensors, begin = self.work.tensors, self._ran
        end = min(begin + max(token_rows // tensors.rows, 1), tensors.tokens)
        named = {name: value[:, begin:end] for name, value in tensors.named().items()}
        part = StepTensors.from_named(named)
        rows = None if begin else self.work.select_rows
        return Step(self.work.number, self.work.start + begin, part, rows)

    def take(self, result: object, started_s: float, ended_s: float) -> bool:
        """A portion has run, or failed: `result` is then the error. Whether that was all of it."""
        self._began_s = started_s if self._began_s is None else self._began_s
        self._ran_s = ended_s
        self._compute_s += ended_s - started_s
        self._result = result
        if isinstance(result, Applied) and isinstance(self.work, Step):
            self._applied.append(result)
            self._ran += result.output.tokens
            if self._ran < self.work.tensors.tokens:
                self._left = self._waiting()
                return False
            self._result = _joined(self._applied)
        self._is_done = True
        return True

    def settle_if_done(self) -> None:
        """Tell what became of it, if all of it has run."""
        if self._is_done:
            error = self._result if isinstance(self._result, BaseException) else None
            self.end(self._result, error)

    def end(self, result: object, error: BaseException | None) -> None:
        """Tell what became of it, unless that was told before."""
        if not self._is_settled:
            self._is_settled = True
            queue_s = 0.0 if self._began_s is None else self._began_s - self.arrived_s
            self._settle(result, error, queue_s, self._compute_s)


class Turn:
    """Queued work that runs together since `started_s`, `tokens` token rows of it.

    Attributes:
        decoded: the sessions whose steps are short.
        begun: the sessions whose whole prompts are in it.
        is_short: whether there are no steps but short ones.
    """

    __slots__ = ("begun", "decoded", "is_short", "queued", "started_s", "tokens")

    def __init__(self, queued: list[Queued], tokens: int, started_s: float) -> None:
        self.queued = queued
        self.tokens = tokens
        self.started_s = started_s
        self.decoded = [work.session.id for work in queued if work.waiting.is_short]
        self.begun = [work.session.id for work in queued if work.waiting.is_brief]
        self.is_short = len(self.decoded) == len(queued)

    @property
    def of_one_token(self) -> HopSession | None:
        """The session, if this is one token of one session and nothing else."""
        queued = self.queued[0]
        is_one = len(self.queued) == 1 and isinstance(queued.work, Step) and queued.work.tensors.tokens == 1
        return queued.session if is_one else None

    def end(self, results: Sequence[object], now_s: float) -> list[Queued]:
        """It has run, with these results or errors; what of it has more to do."""
        pairs = zip(self.queued, results, strict=True)
        return [work for work, result in pairs if not work.take(result, self.started_s, now_s)]

    def settle(self) -> None:
        """Tell what became of all that has been done."""
        for work in self.queued:
            work.settle_if_done()


def _joined(parts: list[Applied]) -> Applied:
    if len(parts) == 1:
        return parts[0]
    return Applied(StepTensors.joined([part.output for part in parts]), sum(p.computed_tokens for p in parts))
