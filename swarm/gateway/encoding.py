"""Texts made into vectors, one after the other, in one thread."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from swarm.core.errors import Interrupted
from swarm.gateway.generation import LinedModel, SessionLine
from swarm.gateway.pooling import Pooling


class Encoding:
    """One request's texts. `run` belongs to a thread, `interrupt` to any other."""

    def __init__(self, model: LinedModel, pooling: Pooling, texts: Sequence[Sequence[int]]) -> None:
        self._model = model
        self._pooling = pooling
        self._texts = texts
        self._interrupted = False
        self._line: SessionLine | None = None

    def run(self) -> list[Tensor]:
        """A vector for each text.

        Raises:
            SwarmError: the swarm could not compute them, or nobody waits for them any more.
        """
        return [self._vector(text) for text in self._texts]

    def _vector(self, text: Sequence[int]) -> Tensor:
        line = self._line = self._model.line(len(text))
        try:
            if self._interrupted:
                raise Interrupted("the encoding was interrupted")
            return self._pooling.pool(self._model.encode(torch.tensor([list(text)]), **line.arguments))
        finally:
            line.close()

    def interrupt(self) -> None:
        """Let it end at once."""
        self._interrupted = True
        if self._line is not None:
            self._line.interrupt()
