"""The next token of a session that decodes alone, for which all is checked and ready but its hidden state.

What stands in a step's message, and whether this peer can take it, is known as soon as the token before has left: only
number, position and trace differ. So this is found out while others compute, and the message that comes need only be
compared.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from swarm.shards.ahead import TokenMemory
from swarm.shards.shard import Shard
from swarm.wire.message import TensorMeta
from swarm.wire.step_messages import StepMessage
from swarm.wire.tensors import Packed, bytes_of


@dataclass(frozen=True, slots=True)
class Awaited:
    """The token at position `start`: what its message names as tensors, and the memory for what is in them.

    Attributes:
        memory: nothing else uses it.
        room: the memory of its hidden state.
        leaving: what the message of its output will name as tensors.
        output: the bytes of that message, if the output stands in `memory`.
    """

    start: int
    tensors: Sequence[TensorMeta]
    memory: TokenMemory
    room: memoryview
    leaving: list[TensorMeta]
    output: memoryview

    def is_in(self, message: StepMessage) -> bool:
        """Whether this message brings it, and nothing besides."""
        is_plain = message.select_rows is None and message.replay is None
        return is_plain and message.start == self.start and message.tensors == self.tensors

    def packed(self, output: torch.Tensor) -> Packed:
        """Its output as it leaves."""
        return self.leaving, [self.output if output is self.memory.output else bytes_of(output)]


def awaited_after(
    message: StepMessage, leaving: list[TensorMeta], shard: Shard, positions: int | None
) -> Awaited | None:
    """What to await after a step whose output left as `leaving`.

    None if that was not one plain token, or the model's `positions` end with it.
    """
    start, tensors = message.start + 1, message.tensors
    is_plain = message.select_rows is None and message.replay is None
    if not is_plain or not _is_one_token(tensors) or not _is_one_token(leaving):
        return None
    if positions is not None and start >= positions:
        return None
    hidden, output = (torch.empty(metas[0].shape, dtype=shard.dtype) for metas in (tensors, leaving))
    return Awaited(start, tensors, TokenMemory(hidden, output), bytes_of(hidden), leaving, bytes_of(output))


def _is_one_token(metas: Sequence[TensorMeta]) -> bool:
    """Whether this is one token's hidden state, as it is."""
    return len(metas) == 1 and metas[0].coding is None and metas[0].shape[:2] == [1, 1]
