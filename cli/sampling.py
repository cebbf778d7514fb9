"""How the next token is chosen, as `generate()` takes it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Sampling:
    """None leaves a value to the model's own generation settings; `temperature` 0 is greedy.

    The text ends before the first of `stops`. `speculate` is the option of `SwarmModel.generate`, which local models
    do not have: None leaves it out. `auto` is off where a seed is given: how much is drafted depends on timing, and
    with it which random numbers are drawn.
    """

    max_tokens: int
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    seed: int | None = None
    stops: tuple[str, ...] = ()
    speculate: Any = None

    def arguments(self) -> dict[str, Any]:
        """Keyword arguments of `generate()`."""
        chosen: dict[str, Any] = {"max_new_tokens": self.max_tokens}
        if self.speculate is not None:
            settled = self.speculate == "auto" and self.seed is not None
            chosen["speculate"] = "off" if settled else self.speculate
        if self.temperature == 0:
            return chosen | {"do_sample": False}
        given = {"temperature": self.temperature, "top_p": self.top_p, "top_k": self.top_k}
        given = {name: value for name, value in given.items() if value is not None}
        return chosen | given | ({"do_sample": True} if given else {})
