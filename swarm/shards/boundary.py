"""The form of a hidden state between two layers.

Most models hand `[rows, tokens, hidden]` from layer to layer. Some keep several streams:
`[rows, tokens, streams, hidden]` or `[streams, rows, tokens, hidden]`. On the wire rows come first and tokens second.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from swarm.core.errors import ModelError

PROBE_ROWS, PROBE_TOKENS = 5, 7  # sizes that no model has streams of


@dataclass(frozen=True, slots=True)
class Boundary:
    """`axis` is where the model has its rows (tokens follow); `shape` is what follows rows and tokens on the wire."""

    axis: int
    shape: tuple[int, ...]

    def to_wire(self, hidden: Tensor) -> Tensor:
        """Rows and tokens to the front."""
        return hidden if self.axis == 0 else hidden.movedim((self.axis, self.axis + 1), (0, 1))

    def from_wire(self, hidden: Tensor) -> Tensor:
        """Rows and tokens to where the model has them."""
        return hidden if self.axis == 0 else hidden.movedim((0, 1), (self.axis, self.axis + 1)).contiguous()


def read_boundary(shape: tuple[int, ...], model: str) -> Boundary:
    """The boundary of a model whose first layer got a hidden state of `shape` for the probe's rows and tokens.

    Raises:
        ModelError: if rows and tokens are not found side by side.
    """
    for axis in range(len(shape) - 1):
        if shape[axis : axis + 2] == (PROBE_ROWS, PROBE_TOKENS):
            return Boundary(axis, shape[:axis] + shape[axis + 2 :])
    raise ModelError(f"{model} is not supported: its layers exchange hidden states of shape {list(shape)}")
