"""What a client knows of the swarm of its model at one moment."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from swarm.routing.status import StatusReport


@dataclass(frozen=True, slots=True)
class Outlook:
    """For those who show it.

    Attributes:
        report: who serves what, as announced.
        failing: peers that this client avoids or cannot reach any more, with what went wrong.
        rtt_s: round trips to the peers that it has a link to.
    """

    report: StatusReport
    failing: Mapping[str, str] = field(default_factory=dict)
    rtt_s: Mapping[str, float] = field(default_factory=dict)
