"""What became of one request, without a word of what was said in it: for logs and traces."""

from __future__ import annotations

import logging
from dataclasses import asdict, dataclass
from typing import Literal

from swarm.gateway.answer import Answer
from swarm.gateway.origin import Origin

logger = logging.getLogger(__name__)

Outcome = Literal["done", "failed", "gone"]
Operation = Literal["chat", "embeddings"]  # as OpenTelemetry's GenAI conventions call them


@dataclass(frozen=True, slots=True)
class HopAccount:
    """One peer's part: seconds of all its decode steps; no layers and no session where it was replaced meanwhile."""

    peer: str
    layers: str | None
    session: str | None
    queue_s: float
    compute_s: float
    serialise_s: float

    @property
    def total_s(self) -> float:
        return self.queue_s + self.compute_s + self.serialise_s


@dataclass(frozen=True, slots=True)
class Times:
    """When a request came, as a Unix time, and how long after that it had its turn, its first token and its end."""

    came_ns: int
    queue_s: float
    first_token_s: float | None
    duration_s: float


@dataclass(frozen=True, slots=True)
class Account:
    """One request, from its arrival.

    Attributes:
        steps: decode steps of the first continuation; hops and links account for these.
        links_s: what these steps took beside the hops.
    """

    times: Times
    outcome: Outcome
    origin: Origin
    prompt_tokens: int
    new_tokens: int
    steps: int
    links_s: float
    hops: tuple[HopAccount, ...]
    operation: Operation = "chat"

    @classmethod
    def of(cls, answer: Answer, times: Times, outcome: Outcome, origin: Origin) -> Account:
        """Of an answer that has ended."""
        profile = answer.profile
        chain = answer.chain.hops if answer.chain is not None else ()
        parts = dict(
            zip((hop.peer_id for hop in chain), zip(chain, answer.sessions, strict=False), strict=False)
        )
        hops = []
        for peer, spent in profile.hops.items():
            hop, session = parts.get(peer, (None, None))
            layers = None if hop is None else str(hop.span)
            hops.append(HopAccount(peer, layers, session, spent.queue_s, spent.compute_s, spent.serialise_s))
        links_s = max(profile.network_s, 0.0) if profile.steps else 0.0
        usage = answer.usage
        return cls(
            times, outcome, origin, usage.prompt_tokens, usage.new_tokens, profile.steps, links_s, tuple(hops)
        )

    @classmethod
    def of_texts(cls, tokens: int, times: Times, outcome: Outcome, origin: Origin) -> Account:
        """Of texts of so many tokens that were to become vectors."""
        return cls(times, outcome, origin, tokens, 0, 0, 0.0, (), "embeddings")

    def log(self) -> None:
        """One record, for logs that programs read."""
        fields = asdict(self)
        times = fields.pop("times")
        del fields["origin"], times["came_ns"]
        ids = {"request_id": self.origin.request_id, "trace_id": self.origin.trace_id}
        logger.info("a request ended", extra=ids | times | fields)
