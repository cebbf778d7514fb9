"""What all sessions of one client share."""

from __future__ import annotations

from dataclasses import dataclass

from swarm.client.deadline import StepDeadline
from swarm.client.inbox import Inbox
from swarm.client.navigator import Navigator
from swarm.client.stats import ClientStats
from swarm.core.config import ClientConfig
from swarm.shards.traits import ModelTraits
from swarm.wire.node import Node


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """The client's part of a model: its traits, and the dtype in which it sends and receives hidden states."""

    traits: ModelTraits
    dtype: str


@dataclass(frozen=True, slots=True)
class Shared:
    """Collaborators, and facts about the checkpoint."""

    node: Node
    inbox: Inbox
    navigator: Navigator
    config: ClientConfig
    deadline: StepDeadline
    layers: int
    model_uid: str
    stats: ClientStats
