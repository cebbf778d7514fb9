"""Run a language model that no single machine can hold, together with others.

from swarm import SwarmModel

with SwarmModel.from_pretrained("demo", peers=["/ip4/.../tcp/.../p2p/..."]) as model:
    ...  # model.generate() and everything else of transformers
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from swarm.core import kept_listing, lean_imports
from swarm.core.version import VERSION

if TYPE_CHECKING:
    from swarm.client.model import SwarmModel
    from swarm.client.stats import ClientStats
    from swarm.core.config import ClientConfig
    from swarm.core.errors import (
        ConfigError,
        ModelError,
        NodeError,
        PeerError,
        RequestError,
        SwarmError,
        SwarmUnavailable,
    )

lean_imports.install()
kept_listing.install()

__version__ = VERSION
_HOMES = {
    "SwarmModel": "swarm.client.model",
    "ClientStats": "swarm.client.stats",
    "ClientConfig": "swarm.core.config",
    "ConfigError": "swarm.core.errors",
    "ModelError": "swarm.core.errors",
    "NodeError": "swarm.core.errors",
    "PeerError": "swarm.core.errors",
    "RequestError": "swarm.core.errors",
    "SwarmError": "swarm.core.errors",
    "SwarmUnavailable": "swarm.core.errors",
}
__all__ = [
    "ClientConfig",
    "ClientStats",
    "ConfigError",
    "ModelError",
    "NodeError",
    "PeerError",
    "RequestError",
    "SwarmError",
    "SwarmModel",
    "SwarmUnavailable",
    "__version__",
]


def __getattr__(name: str) -> Any:
    """Import on first use (PEP 562), so that `import swarm.routing` does not import torch."""
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'swarm' has no attribute {name!r}")
    return getattr(import_module(home), name)
