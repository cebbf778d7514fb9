"""What a benchmark is asked to do."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

Tell = Callable[[str], None]
WanNetwork = Literal["auto", "netem", "relay"]


@dataclass(frozen=True, slots=True)
class Plan:
    """Settings of one run; what a benchmark does not need it ignores.

    Attributes:
        peers: most peers in a chain.
        swarms: how often the peers are started anew, where a benchmark does that (`decode`, `prefill`).
        rounds: how often everything takes its turn, in each swarm; one more round before them warms up and does not
            count.
        tokens: new tokens of one generation.
        prompt: tokens of the prompt; None takes what suits the benchmark.
        sessions: how many sessions run at once, one case each.
        delay_s: seconds from any node to any other one (`wan`).
        network: how that delay is made.
    """

    peers: int = 3
    swarms: int = 3
    rounds: int = 5
    tokens: int = 64
    prompt: int | None = None
    sessions: tuple[int, ...] = (1, 4, 16)
    delay_s: float = 0.025
    network: WanNetwork = "auto"
