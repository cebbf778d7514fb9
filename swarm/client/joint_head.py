"""The model's head for many sessions at once: those whose hidden states are there meet, and are computed together.

A head is the largest matrix of a client: for one token it is read whole, which for several takes hardly longer.
Generations run in threads of their own, and peers answer several sessions at once. So their hidden states meet here:
who comes first waits for those that are announced, and who comes while others are computed goes with the next ones.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from swarm.shards.products import by_onednn, has_onednn

if TYPE_CHECKING:
    from transformers import PreTrainedModel

MOST_ROWS = 32
PATIENCE_S = 0.01
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
        return [linear(rows[0], weight)]
    states = torch.cat([row.reshape(1, 1, -1) for row in rows], dim=1)
    found = by_onednn(states, weight) if has_onednn() else linear(states, weight)
    return [found[0, i].view(*row.shape[:-1], -1) for i, row in enumerate(rows)]


class JointHead(nn.Linear):
    """A head of a client on the CPU: single tokens of several threads meet, all else is multiplied as usual."""

    meeting: Meeting

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - as in nn.Linear
        is_one_token = input.numel() == self.in_features and input.device.type == "cpu"
        if not is_one_token or torch.is_grad_enabled():
            return super().forward(input)
        output = self.meeting.product(input, self.weight)
        return output if self.bias is None else output + self.bias


def join_head(model: PreTrainedModel) -> Meeting | None:
    """Let the sessions of `model` share their head, if it is a large float32 matrix on the CPU: where they meet."""
    head = model.get_output_embeddings()  # type: ignore[no-untyped-call]
    if type(head) is not nn.Linear or head.weight.numel() < _LEAST_SIZE:
        return None
    if head.weight.device.type != "cpu" or head.weight.dtype != torch.float32:
        return None
    head.__class__ = JointHead
    meeting = head.meeting = Meeting()  # type: ignore[assignment]
    return meeting
