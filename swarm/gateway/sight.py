"""What is to be seen of the swarm, and of this gateway's work in it, at one moment."""

from __future__ import annotations

from dataclasses import dataclass

from swarm.client.outlook import Outlook


@dataclass(frozen=True, slots=True)
class Work:
    """What this gateway does in the swarm: answers now, and totals since its start."""

    running: int
    waiting: int
    failovers: int
    handovers: int
    replayed_tokens: int


@dataclass(frozen=True, slots=True)
class Sight:
    """The swarm and this gateway's work in it at one moment."""

    outlook: Outlook
    work: Work
