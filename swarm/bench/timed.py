"""One generation with the moments at which its tokens came."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from transformers import StoppingCriteria, StoppingCriteriaList


@dataclass(frozen=True, slots=True)
class Timed:
    """New tokens of one sequence, and when each came, in seconds since the call at `begun` (`time.perf_counter`)."""

    begun: float
    tokens: tuple[int, ...]
    times: tuple[float, ...]

    @property
    def first_s(self) -> float:
        """Until the first new token: opening the session, prefill, head."""
        return self.times[0]

    @property
    def step_s(self) -> float:
        """Mean seconds of a decode step: from the first new token to the last."""
        return (self.times[-1] - self.times[0]) / (len(self.times) - 1)


@dataclass(slots=True)
class Clock:
    """A streamer that notes when tokens come, one or several at once. What it is given first is the prompt."""

    begun: float = field(default_factory=time.perf_counter)
    times: list[float] = field(default_factory=list)
    _prompt_passed: bool = False

    def put(self, value: Tensor) -> None:
        if self._prompt_passed:
            self.times += [time.perf_counter() - self.begun] * value.numel()
        self._prompt_passed = True

    def end(self) -> None:
        """Nothing to flush."""


class AtToken(StoppingCriteria):
    """Never stops; calls `action` once, when `count` new tokens exist."""

    def __init__(self, count: int, action: Callable[[], None]) -> None:
        self._left = count
        self._action = action

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Any:
        self._left -= 1
        if self._left == 0:
            self._action()
        return torch.zeros(input_ids.shape[0], dtype=torch.bool)


def timed(
    model: Any,
    ids: Tensor,
    tokens: int,
    at: tuple[int, Callable[[], None]] | None = None,
    speculate: str | None = None,
    past: Any = None,
) -> Timed:
    """Generate exactly `tokens` new ones, greedily, whatever they say; call `at[1]` once `at[0]` of them exist.

    `speculate` is the option of `SwarmModel.generate`, which local models do not have: None leaves it out. `past` is a
    cache of the model that holds the first of `ids`.
    """
    torch.set_num_threads(1)  # of the calling thread
    clock = Clock()
    found = model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        do_sample=False,
        pad_token_id=0,
        eos_token_id=None,
        max_new_tokens=tokens,
        streamer=clock,
        stopping_criteria=StoppingCriteriaList([] if at is None else [AtToken(*at)]),
        **({} if speculate is None else {"speculate": speculate}),
        **({} if past is None else {"past_key_values": past}),
    )
    return Timed(clock.begun, tuple(found[0, ids.shape[1] :].tolist()), tuple(clock.times))
