"""What all sessions of one client share."""

from __future__ import annotations

from dataclasses import dataclass, field

from swarm.client.deadline import StepDeadline
from swarm.client.inbox import Inbox
from swarm.client.joint_head import Meeting
from swarm.client.navigator import Navigator
from swarm.client.pieces import Pace
from swarm.client.profile import StepProfile
from swarm.client.routes import Routes
from swarm.client.stats import ClientStats
from swarm.core.config import ClientConfig
from swarm.shards.traits import ModelTraits
from swarm.wire.dialer import Dialer

CHUNK_BYTES = 64 << 20


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """The client's part of a model: its traits, and the dtype in which it sends and receives hidden states.

    `meeting` is where sessions share its head, if they do.
    """

    traits: ModelTraits
    dtype: str
    meeting: Meeting | None = None


@dataclass(frozen=True, slots=True)
class Shared:
    """Collaborators, and facts about the checkpoint; a step larger than `chunk_bytes` is sent in pieces."""

    node: Dialer
    inbox: Inbox
    navigator: Navigator
    config: ClientConfig
    deadline: StepDeadline
    layers: int
    model_uid: str
    stats: ClientStats
    chunk_bytes: int = CHUNK_BYTES
    pace: Pace = field(default_factory=Pace)
    profile: StepProfile = field(default_factory=StepProfile)
    routes: Routes = field(default_factory=Routes)
