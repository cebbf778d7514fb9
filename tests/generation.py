"""The ways of generating that must survive everything, each as keyword arguments of `generate`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from transformers import StoppingCriteriaList

from swarm.bench.timed import AtToken

MODES: dict[str, dict[str, Any]] = {
    "greedy": {"do_sample": False},
    "sampling": {"do_sample": True, "temperature": 0.9, "top_k": 20},
    "batch": {"do_sample": False},
    "beams": {"do_sample": False, "num_beams": 3},
    "streamed": {"do_sample": False},
}


class TokenList:
    """A streamer that keeps what it is given."""

    def __init__(self) -> None:
        self.tokens: list[int] = []
        self.ended = False

    def put(self, value: Tensor) -> None:
        self.tokens += value.flatten().tolist()

    def end(self) -> None:
        self.ended = True


def prompt(mode: str, vocabulary: int = 150, length: int = 12) -> dict[str, Tensor]:
    """Token ids and mask: one row, or two of which the second is padded at its left for `batch`."""
    rows = 2 if mode == "batch" else 1
    generator = torch.Generator().manual_seed(7)
    ids = torch.randint(5, vocabulary, (rows, length), generator=generator)
    mask = torch.ones_like(ids)
    if rows == 2:
        mask[1, : length // 3] = 0
    return {"input_ids": ids, "attention_mask": mask}


def generate(
    model: Any, mode: str, new_tokens: int, at_token: int = 0, action: Callable[[], None] | None = None
) -> Tensor:
    """Run `model.generate` in one of the modes; `action` happens after `at_token` tokens."""
    torch.manual_seed(11)
    arguments = prompt(mode) | MODES[mode]
    streamer = TokenList() if mode == "streamed" else None
    criteria = StoppingCriteriaList([AtToken(at_token, action)] if action is not None else [])
    sequences: Tensor = model.generate(
        **arguments,
        max_new_tokens=new_tokens,
        min_new_tokens=new_tokens,
        pad_token_id=0,
        streamer=streamer,
        stopping_criteria=criteria,
    )
    if streamer is not None:
        assert streamer.ended
        assert streamer.tokens == sequences.flatten().tolist()
    return sequences
