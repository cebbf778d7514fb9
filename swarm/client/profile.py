"""Where the time of a token goes: what every hop says of itself, what this side measures, and the rest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from swarm.wire.step_messages import HopTiming


@dataclass(slots=True)
class HopTotals:
    """Seconds that decode steps spent on one hop, in all."""

    queue_s: float = 0.0
    compute_s: float = 0.0
    serialise_s: float = 0.0

    @property
    def total_s(self) -> float:
        return self.queue_s + self.compute_s + self.serialise_s


@dataclass(slots=True)
class StepProfile:
    """Totals over decode steps: steps of one token per row that went through the chain in one piece.

    Attributes:
        chain_s: from sending a step to its answer.
        handover_s: between the generating thread and the thread that sends.
        client_s: between two steps: embeddings, head, choice of the token, streaming.
        serialise_s: this side's tensors to bytes.
        hops: by peer id, in the order of the chain.
        latest: what each hop said of the newest step, whatever its size.
    """

    steps: int = 0
    chain_s: float = 0.0
    handover_s: float = 0.0
    client_s: float = 0.0
    serialise_s: float = 0.0
    hops: dict[str, HopTotals] = field(default_factory=dict)
    latest: tuple[HopTiming, ...] = ()

    def add(self, chain_s: float, serialise_s: float, trace: Sequence[HopTiming]) -> None:
        """Take in one step, which took `chain_s` with `serialise_s` of it here."""
        self.steps += 1
        self.chain_s += chain_s
        self.serialise_s += serialise_s
        for timing in trace:
            hop = self.hops.setdefault(timing.peer, HopTotals())
            hop.queue_s += timing.queue_s
            hop.compute_s += timing.compute_s
            hop.serialise_s += timing.serialise_s

    @property
    def network_s(self) -> float:
        """What neither a hop nor this side accounts for: links, and the hops' event loops."""
        return self.chain_s - self.serialise_s - sum(hop.total_s for hop in self.hops.values())

    @property
    def total_s(self) -> float:
        """All of it."""
        return self.chain_s + self.handover_s + self.client_s
