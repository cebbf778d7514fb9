"""The model's head for many sessions at once: those whose hidden states are there meet, and are computed together.

A head is the largest matrix of a client: for one token it is read whole, which for several takes hardly longer.
Generations run in threads of their own, and peers answer several sessions at once. So their hidden states meet here:
who comes first waits for those that are announced, and who comes while others are computed goes with the next ones.
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from swarm.shards.few_rows import by_few_rows, has_few_rows
from swarm.shards.products import by_onednn, has_onednn, store_by_columns

if TYPE_CHECKING:
    from transformers import PreTrainedModel

MOST_ROWS = 32
PATIENCE_S = 0.01
_PRACTICE_ROWS = 48  # short generations need no trial
_TRIED_ROWS = 4
_ROUNDS = 3
_LEAST_SIZE = 1 << 20  # elements; below, waking another thread costs more than the product


class _Turn:
    """One row that waits for its product, or why there is none."""

    __slots__ = ("error", "found", "row")

    def __init__(self, row: Tensor) -> None:
        self.row = row
        self.found: Tensor | None = None
        self.error: Exception | None = None

    @property
    def is_done(self) -> bool:
        return self.found is not None or self.error is not None


class Meeting:
    """Rows of several threads that wait for one matrix. One thread computes at a time, for all that wait by then."""

    def __init__(self) -> None:
        self._turn = threading.Lock()
        self._news = threading.Condition()
        self._waiting: list[_Turn] = []
        self._announced: set[int] = set()

    def announce(self, thread: int) -> None:
        """The thread of this number is about to bring a row; from any thread."""
        with self._news:
            self._announced.add(thread)

    def product(self, row: Tensor, weight: Tensor) -> Tensor:
        """`row` `[..., in]` of one token times `weight`."""
        mine = _Turn(row)
        with self._news:
            self._waiting.append(mine)
            self._announced.discard(threading.get_ident())
            self._news.notify()
        with self._turn:
            if not mine.is_done:
                self._wait_for_announced()
            while not mine.is_done:
                with self._news:
                    group, self._waiting = self._waiting[:MOST_ROWS], self._waiting[MOST_ROWS:]
                _compute(group, weight)
        if mine.error is not None:
            raise mine.error
        assert mine.found is not None
        return mine.found

    def _wait_for_announced(self) -> None:
        with self._news:
            self._news.wait_for(lambda: not self._announced or len(self._waiting) >= MOST_ROWS, PATIENCE_S)
            self._announced.clear()  # whoever is late, or never comes, is waited for once


def _compute(group: list[_Turn], weight: Tensor) -> None:
    try:
        for turn, found in zip(group, _products([turn.row for turn in group], weight), strict=True):
            turn.found = found
    except Exception as error:
        for turn in group:
            turn.error = error


def _products(rows: list[Tensor], weight: Tensor) -> list[Tensor]:
    if len(rows) == 1:
        return [_few(rows[0], weight)]
    found = _few(torch.cat([row.reshape(1, 1, -1) for row in rows], dim=1), weight)
    return [found[0, i].view(*row.shape[:-1], -1) for i, row in enumerate(rows)]


def _few(states: Tensor, weight: Tensor) -> Tensor:
    """A few rows, with weights as they were loaded or by columns."""
    if not weight.is_contiguous():
        return by_few_rows(states, weight)
    one = states.numel() == weight.shape[1]
    return linear(states, weight) if one or not has_onednn() else by_onednn(states, weight)


class JointHead(nn.Linear):
    """A head of a client on the CPU: single tokens of several threads meet, all else is multiplied as usual.

    Once it has been used for a while, its weights are stored by columns, if a trial finds that faster.
    """

    meeting: Meeting
    may_turn: bool
    left: int  # rows until that trial

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - as in nn.Linear
        rows = input.numel() // self.in_features
        fits = input.shape[-1] == self.in_features and input.dtype == torch.float32
        if not fits or rows > MOST_ROWS or input.device.type != "cpu" or torch.is_grad_enabled():
            return super().forward(input)
        self._count(rows)
        weight = self.weight
        output = self.meeting.product(input, weight) if rows == 1 else _few(input, weight)
        return output if self.bias is None else output + self.bias

    def _count(self, rows: int) -> None:
        was_due, self.left = self.left <= 0, self.left - rows
        if self.left <= 0 and not was_due and self.may_turn:
            threading.Thread(target=self._turn, name="swarm-head", daemon=True).start()

    @torch.no_grad()
    def _turn(self) -> None:
        """Store the weights by columns, if a few rows are multiplied faster so; forwards go on meanwhile."""
        if not has_few_rows():
            return
        stored = self.weight.detach()
        by_columns = store_by_columns(stored)
        states = torch.ones(1, _TRIED_ROWS, self.in_features)
        times = [min(_seconds(states, weight) for _ in range(_ROUNDS)) for weight in (stored, by_columns)]
        if times[1] < times[0]:
            self.weight = nn.Parameter(by_columns, requires_grad=False)


def _seconds(states: Tensor, weight: Tensor) -> float:
    began_s = time.perf_counter()
    _few(states, weight)
    return time.perf_counter() - began_s


def join_head(model: PreTrainedModel) -> Meeting | None:
    """Let the sessions of `model` share their head, if it is a large float32 matrix on the CPU: where they meet."""
    head = model.get_output_embeddings()  # type: ignore[no-untyped-call]
    if type(head) is not nn.Linear or head.weight.numel() < _LEAST_SIZE:
        return None
    if head.weight.device.type != "cpu" or head.weight.dtype != torch.float32:
        return None
    head.__class__ = JointHead
    joint = cast(JointHead, head)
    joint.meeting = Meeting()
    embeddings = model.get_input_embeddings()
    joint.may_turn = getattr(embeddings, "weight", None) is not head.weight  # else there would be two of them
    joint.left = _PRACTICE_ROWS
    return joint.meeting
