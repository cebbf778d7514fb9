"""How an embedding model makes one vector of a text: read from the files that sentence-transformers writes."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from swarm.core.errors import ModelError

_KINDS = {"Transformer", "Pooling", "Normalize"}
_MODES: dict[str, Literal["first", "mean", "last"]] = {
    "pooling_mode_cls_token": "first",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_lasttoken": "last",
}


@dataclass(frozen=True, slots=True)
class Pooling:
    """Which positions count, and whether vectors have length 1."""

    mode: Literal["first", "mean", "last"]
    normalizes: bool

    def pool(self, hidden: Tensor) -> Tensor:
        """The vector `[H]` of one text's hidden state `[1, S, H]`."""
        states = hidden[0].float()
        vector = {"first": states[0], "mean": states.mean(dim=0), "last": states[-1]}[self.mode]
        return vector / vector.norm().clamp_min(1e-12) if self.normalizes else vector


def read_pooling(fetch: Callable[[str], Path]) -> Pooling | None:
    """How this checkpoint pools; None if it is no embedding model, or one of a kind that is not known here.

    `fetch` gives the path of a file of the checkpoint, and raises ModelError if there is none.
    """
    try:
        modules = json.loads(fetch("modules.json").read_text(encoding="utf-8"))
        kinds = {str(module["type"]).rpartition(".")[2]: str(module["path"]) for module in modules}
        if "Pooling" not in kinds or not set(kinds) <= _KINDS:
            return None
        config: dict[str, Any] = json.loads(
            fetch(f"{kinds['Pooling']}/config.json").read_text(encoding="utf-8")
        )
    except (ModelError, OSError, ValueError, KeyError, TypeError):
        return None
    chosen = [name for name, value in config.items() if name.startswith("pooling_mode_") and value is True]
    if len(chosen) != 1 or chosen[0] not in _MODES:
        return None
    return Pooling(_MODES[chosen[0]], "Normalize" in kinds)
