"""What is used of hivemind, and the only place that imports it; see `swarm.core.lean_imports`."""

from __future__ import annotations

from importlib.resources import files

from hivemind.dht.node import DHTNode
from hivemind.dht.routing import DHTID
from hivemind.dht.validation import DHTRecord, RecordValidatorBase
from hivemind.p2p import P2P, P2PDaemonError, PeerID
from hivemind.utils.logging import use_hivemind_log_handler
from hivemind.utils.multiaddr import Multiaddr
from hivemind.utils.timed_storage import get_dht_time

P2PD = files("hivemind.hivemind_cli") / "p2pd"  # the program

__all__ = [
    "DHTID",
    "P2P",
    "P2PD",
    "DHTNode",
    "DHTRecord",
    "Multiaddr",
    "P2PDaemonError",
    "PeerID",
    "RecordValidatorBase",
    "get_dht_time",
    "use_hivemind_log_handler",
]
