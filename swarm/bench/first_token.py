"""A fresh process that generates one token and says when it came: `python -m swarm.bench.first_token`.

    FOLDER TOKENS              with the local transformers model
    FOLDER TOKENS ADDRESS...   over the swarm at these addresses

It imports what a user's script would import, and in that order. Moments are of the clock that all processes of a
machine share (`time.perf_counter`).
"""

from __future__ import annotations

import json
import sys
import time
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class FirstToken:
    """When the model was there, when its first token was, and which one it is."""

    loaded_s: float
    came_s: float
    token: int


def first_token(folder: str, prompt: list[int], addresses: list[str]) -> FirstToken:
    """Load the model, in the swarm if there are addresses, and continue the prompt by one token."""
    model = _in_swarm(folder, addresses) if addresses else _local(folder)
    loaded_s = time.perf_counter()
    import torch

    from swarm.bench.timed import timed

    found = timed(model, torch.tensor([prompt]), 1)
    if addresses:
        model.close()
    return FirstToken(loaded_s, found.begun + found.first_s, found.tokens[0])


def _in_swarm(folder: str, addresses: list[str]) -> Any:
    from swarm import SwarmModel

    return SwarmModel.from_pretrained(folder, peers=addresses, dtype="float32")


def _local(folder: str) -> Any:
    import torch
    from transformers import AutoModelForCausalLM

    auto: Any = AutoModelForCausalLM
    return auto.from_pretrained(folder, dtype=torch.float32, local_files_only=True)


def main(arguments: list[str]) -> None:
    """The moments, as JSON on stdout."""
    folder, prompt, *addresses = arguments
    json.dump(asdict(first_token(folder, [int(token) for token in prompt.split(",")], addresses)), sys.stdout)


if __name__ == "__main__":
    main(sys.argv[1:])
