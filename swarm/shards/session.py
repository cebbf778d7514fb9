"""One session on one hop: a KV cache, the mask so far, and the outputs it passed on.

    number == last_step   before length: the same answer again, nothing is computed; at length: the step's next piece
    number <  last_step   refused
    start  == length      append
    start  <  length      roll back first
    start  >  length      refused, naming both

`apply` runs in the thread that owns the device; `length` and `last_step` may be read from another one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from typing import TYPE_CHECKING, Concatenate, ParamSpec, TypeVar

import torch
from torch import Tensor

from swarm.core.errors import RequestError, SessionLost
from swarm.core.span import Span
from swarm.shards.cache import ShardCache
from swarm.shards.history import History
from swarm.shards.many_queries import FEWEST, has_many_queries
from swarm.shards.next_token import NextToken
from swarm.shards.past import Past
from swarm.shards.step import Step, StepTensors

if TYPE_CHECKING:
    from swarm.shards.shard import Shard
    from swarm.shards.span_run import SpanRun

P = ParamSpec("P")
Found = TypeVar("Found")
_LONG_PAST = 512


@dataclass(slots=True)
class SessionCounters:
    """What a session has really computed: tokens per row, and calls."""

    tokens: int = 0
    steps: int = 0


def _or_lost(
    method: Callable[Concatenate[ShardSession, P], Found],
) -> Callable[Concatenate[ShardSession, P], Found]:
    """What is raised within leaves the session lost."""

    @wraps(method)
    def guarded(session: ShardSession, /, *args: P.args, **kwargs: P.kwargs) -> Found:
        try:
            return method(session, *args, **kwargs)
        except BaseException:
            session.lose()
            raise

    return guarded


class ShardSession:
    """The state of one sequence batch on layers `span` of a shard."""

    def __init__(self, shard: Shard, run: SpanRun, cache: ShardCache, *, rollback: bool) -> None:
        self.shard = shard
        self.run = run
        self.cache = cache
        self.mask: Tensor | None = None  # [B, length] on the device; None until the first padding
        self._lost = False
        self.span: Span = run.span
        self.rollback = rollback
        self.length = 0
        self.last_step = -1
        self.rows = 0
        self.kept = History()
        self.counters = SessionCounters()
        self.next = NextToken(self)

    @property
    def nbytes(self) -> int:
        """Memory of the cache and of the kept outputs."""
        return self.cache.nbytes + self.kept.nbytes

    def apply(self, step: Step) -> StepTensors:
        """Run one step through the span; the result (on the CPU) is what the next hop receives.

        Raises:
            RequestError: if the step does not fit the session; the session stays as it was.
            SessionLost: if an earlier step failed half-way, so that the cache cannot be trusted.
        """
        with torch.inference_mode():
            kept = self.prepare(step)
            if kept is not None:
                return kept
            return self.commit(step, self.compute(step))

    @_or_lost
    def compute(self, step: Step) -> StepTensors:
        """The middle of `apply`: run a prepared step."""
        if self.next.is_step(step):
            hidden = step.tensors.hidden.to(self.shard.dtype)
            return StepTensors(self.run.run_foreseen(self.next.take(), hidden))
        self.next.forget()
        return self.run(step.tensors, self.cache, self.mask)

    def gains_flat(self, tokens: int = 1) -> bool:
        """Whether so many tokens of this session alone are worth flat attention.

        On CPUs it reads a long past faster for a token, and has a faster kernel for pieces of prompts.
        """
        shard = self.shard
        if shard.device.type != "cpu" or shard.batching != "flat":
            return False
        if tokens == 1:
            return self.length >= _LONG_PAST
        return tokens >= FEWEST and shard.dtype == torch.float32 and has_many_queries()

    @property
    def can_look_ahead(self) -> bool:
        """Whether a token that comes next can be prepared for: one row without padding, and a position for it."""
        limit = self.shard.traits.position_limit
        has_room = limit is None or self.length < limit
        return self.rows == 1 and self.mask is None and has_room and not self._lost

    def prepare(self, step: Step) -> StepTensors | None:
        """The first half of `apply`: the kept outputs if `step` is repeated and nothing has to run.

        Otherwise cache and mask become what the run needs; `compute` (or a batch) and `commit`, or `lose` must follow.
        All of them need torch's inference mode.

        Raises:
            RequestError, SessionLost: as `apply`.
        """
        if self._lost:
            raise SessionLost("an earlier step failed inside of the layers; the session must be rebuilt")
        self.next.interrupt()
        if step.number == self.last_step and step.start < self.length:
            return self._again(step)
        self._check(step)
        self._make_ready(step)
        return None

    @_or_lost
    def _make_ready(self, step: Step) -> None:
        if step.start < self.length:
            self._roll_back(step.start)
        else:
            self.cache.forget_past()
        if step.select_rows is not None and self.length:
            self._select(step.select_rows)
        self._extend_mask(step.tensors)

    @_or_lost
    def commit(self, step: Step, output: StepTensors) -> StepTensors:
        """The last half of `apply`: the prepared step has run, and `output` is what came out."""
        rows, count = step.tensors.hidden.shape[:2]
        self.kept.append(output)
        self.cache.seen += count
        self.counters.tokens += count
        self.counters.steps += 1
        self.rows = rows
        self.length += count
        self.last_step = step.number
        return output

    @property
    def is_copyable(self) -> bool:
        """Whether another session may `adopt` this one's past: one row without padding, nothing slides or recurs."""
        traits = self.shard.traits
        is_plain = self.rows == 1 and self.mask is None and not self._lost
        return is_plain and traits.croppable and not traits.slides and self.cache.is_copyable

    @_or_lost
    def adopt(self, other: ShardSession, length: int) -> None:
        """Begin with a copy of the first `length` positions, and of their outputs, of a copyable session."""
        assert self.length == 0
        assert self.span == other.span
        assert 0 < length <= other.length
        with torch.inference_mode():
            self.cache.copy_from(other.cache, length)
            self.kept.append(other.kept.slice(0, length))
        self.rows = other.rows
        self.length = length

    def restore(self, past: Past) -> None:
        """Go on where another session stood.

        Raises:
            RequestError: if this one has begun by itself.
        """
        if self.length or self.last_step >= 0 or self._lost:
            raise RequestError("the session has begun by itself and takes no state of another one")
        if past.is_masked and past.length:
            self.mask = past.kept.mask().to(device=self.shard.device, dtype=torch.long)
        self.cache, self.kept = past.cache, past.kept
        self.rows, self.length, self.last_step = past.rows, past.length, past.last_step

    def lose(self) -> None:
        """A prepared step failed half-way: the cache cannot be trusted any more."""
        self._lost = True

    def _again(self, step: Step) -> StepTensors:
        end = step.start + step.tensors.tokens
        if end > self.length:
            raise RequestError(
                f"step {step.number} was repeated with end {end}, but it ended at {self.length}"
            )
        return self.kept.slice(step.start, end)

    def _check(self, step: Step) -> None:
        """Refuse what cannot work, before anything is changed."""
        if step.number < self.last_step:
            raise RequestError(f"step {step.number} came after step {self.last_step}")
        limit = self.shard.traits.position_limit
        if limit is not None and step.start + step.tensors.tokens > limit:
            raise RequestError(
                f"position {step.start + step.tensors.tokens - 1} is beyond the {limit} positions this model has"
            )
        if step.start > self.length:
            raise RequestError(f"step starts at position {step.start}, but only {self.length} are cached")
        rows = step.tensors.rows
        if step.select_rows is not None and self.length:
            if any(not 0 <= row < self.rows for row in step.select_rows):
                raise RequestError(f"select_rows names a row outside of the {self.rows} rows of the session")
            if len(step.select_rows) != rows:
                raise RequestError(f"select_rows names {len(step.select_rows)} rows, the tensors have {rows}")
        elif step.start and rows != self.rows:
            raise RequestError(f"the session has {self.rows} rows, the step brings {rows}")
        self.shard.check(step.tensors, self.span)
        if 0 < step.start < self.length:
            self.cache.check_rollback(step.start)

    def _roll_back(self, length: int) -> None:
        self.next.forget()
        if length == 0:
            self.cache = self.shard.new_cache(self.span, rollback=self.rollback)
            self.mask = None
        else:
            self.cache.roll_back(length)
            if self.mask is not None:
                self.mask = self.mask[:, :length]
        self.kept.truncate(length)
        self.length = length

    def _select(self, rows: tuple[int, ...]) -> None:
        index = torch.tensor(rows, dtype=torch.long, device=self.shard.device)
        self.cache.select_rows(index)
        if self.mask is not None:
            self.mask = self.mask.index_select(0, index)
        self.kept.select_rows(rows)
        self.rows = len(rows)

    def _extend_mask(self, tensors: StepTensors) -> None:
        if self.mask is None and tensors.mask is None:
            return
        device, rows = self.shard.device, tensors.rows
        past = self.mask
        if past is None:
            past = torch.ones(rows, self.length, dtype=torch.long, device=device)
        new = tensors.mask
        if new is None:
            new = torch.ones(rows, tensors.tokens, dtype=torch.long)
        self.mask = torch.cat([past, new.to(device=device, dtype=torch.long)], dim=1)
