"""Work that waits for the device, with what has been done of it already."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

from swarm.peer.device_batch import Applied, Work
from swarm.peer.scheduler import Waiting
from swarm.peer.sessions import HopSession
from swarm.shards.step import Step, StepTensors


class Settle(Protocol):
    """Hears what became of work: its result or an error, and what it cost."""

    def __call__(
        self, result: object, error: BaseException | None, queue_s: float, compute_s: float
    ) -> None: ...


@dataclass(slots=True, eq=False)
class Queued:
    """A step or a question of one session; `settle` is called once. Long steps may run in portions."""

    session: HopSession
    work: Work
    arrived_s: float
    settle: Settle
    _applied: list[Applied] = field(default_factory=list)
    _compute_s: float = 0.0
    _began_s: float | None = None
    _result: object = None
    _is_done: bool = False
    _is_settled: bool = False

    @property
    def waiting(self) -> Waiting:
        """What is left to do, for the scheduler."""
        if not isinstance(self.work, Step):
            return Waiting(self.session.id, 1, self.arrived_s)
        tensors = self.work.tensors
        divisible = self.session.shard.shard.traits.chunkable and tensors.tokens > 1
        left = tensors.tokens - self._done
        return Waiting(self.session.id, tensors.rows * left, self.arrived_s, divisible)

    @property
    def _done(self) -> int:
        return sum(applied.output.tokens for applied in self._applied)

    def portion(self, token_rows: int) -> Work:
        """The next so many token rows of it; all that is left, if that is not more."""
        if not isinstance(self.work, Step):
            return self.work
        tensors, begin = self.work.tensors, self._done
        end = min(begin + max(token_rows // tensors.rows, 1), tensors.tokens)
        if (begin, end) == (0, tensors.tokens):
            return self.work
        named = {name: value[:, begin:end] for name, value in tensors.named().items()}
        part = StepTensors.from_named(named)
        rows = None if begin else self.work.select_rows
        return Step(self.work.number, self.work.start + begin, part, rows)

    def take(self, result: object, started_s: float, ended_s: float) -> bool:
        """A portion has run, or failed: `result` is then the error. Whether that was all of it."""
        self._began_s = started_s if self._began_s is None else self._began_s
        self._compute_s += ended_s - started_s
        self._result = result
        if isinstance(result, Applied) and isinstance(self.work, Step):
            self._applied.append(result)
            if self._done < self.work.tensors.tokens:
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
            self.settle(result, error, queue_s, self._compute_s)


def _joined(parts: list[Applied]) -> Applied:
    if len(parts) == 1:
        return parts[0]
    return Applied(StepTensors.joined([part.output for part in parts]), sum(p.computed_tokens for p in parts))
