"""What became of one request, without a word of what was said in it: for logs and traces."""

from __future__ import annotations

import logging
from dataclasses import asdict, dataclass
from typing import Literal

from swarm.gateway.answer import Answer

logger = logging.getLogger(__name__)

Outcome = Literal["done", "failed", "gone"]


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
class Account:
    """One request, from the start of its generation.

    Attributes:
        began_ns: Unix time.
        first_token_s: None if there was none.
        steps: decode steps of the first continuation; hops and links account for these.
        links_s: what these steps took beside the hops.
    """

    began_ns: int
    duration_s: float
    first_token_s: float | None
    outcome: Outcome
    prompt_tokens: int
    new_tokens: int
    steps: int
    links_s: float
    hops: tuple[HopAccount, ...]

    @classmethod
    def of(
        cls, answer: Answer, began_ns: int, duration_s: float, first_token_s: float | None, outcome: Outcome
    ) -> Account:
        """Of an answer that has ended."""
        profile = answer.profile
        chain = answer.chain.hops if answer.chain is not None else ()
        parts = dict(
            zip((hop.peer_id for hop in chain), zip(chain, answer.sessions, strict=False), strict=False)
        )
        hops = []
        for peer, times in profile.hops.items():
            hop, session = parts.get(peer, (None, None))
            layers = None if hop is None else str(hop.span)
            hops.append(HopAccount(peer, layers, session, times.queue_s, times.compute_s, times.serialise_s))
        links_s = max(profile.network_s, 0.0) if profile.steps else 0.0
        usage = answer.usage
        return cls(
            began_ns, duration_s, first_token_s, outcome, usage.prompt_tokens, usage.new_tokens, profile.steps,
            links_s, tuple(hops),
        )  # fmt: skip

    def log(self) -> None:
        """One record, for logs that programs read."""
        fields = asdict(self)
        del fields["began_ns"]
        logger.info("a request ended", extra=fields)
