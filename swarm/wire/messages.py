"""The protocol: every message that may stand in a frame's header, validated before anything else happens.

A link is one long-lived binary stream between two nodes, shared by all their sessions. Both ends first send `Hello`.
Then either end may send any message; a control message carries a `request` number which its `Done` or `Failed` repeats.

    client -> every hop    Open, Relink, Replay, Transfer, Inspect, Close   answered by Done | Failed
    leaving hop -> client  Leaving                                     the session should move elsewhere
    old hop -> new hop     StatePart, StateEnd                         a session's state; StateEnd is answered
    client -> first hop    Step                                        (each hop sends Step on to the next one)
    last hop -> client     Output                                      hidden states of the last layer of the segment
    any hop -> client      StepFailed                                  the step stopped here, and why
    replacement -> client  Replayed                                    the replayed past is in its cache
    both                   Ping, Pong                                  heartbeat and round-trip time
"""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from swarm.wire.bandwidth import MAX_BYTES_PER_S
from swarm.wire.control_messages import (
    Close,
    Done,
    Failed,
    Inspect,
    Leaving,
    Open,
    Relink,
    Replay,
    StateEnd,
    Transfer,
)
from swarm.wire.message import SHORTCUT_TOKEN_BYTES, Message, Number
from swarm.wire.step_messages import Output, Replayed, StatePart, StepFailed, StepMessage

PROTOCOL_VERSION = 1


class Hello(Message, frozen=True, kw_only=True, tag="hello", forbid_unknown_fields=False):
    """First message in both directions; what a later version says besides is skipped unread."""

    protocol: Annotated[int, Meta(ge=0, lt=1 << 31)]
    software: Annotated[str, Meta(max_length=64)] = ""


class Shortcut(Message, frozen=True, kw_only=True, tag="shortcut"):
    """Where a peer takes direct connections; its own message on a stream of its own, see `swarm.wire.shortcut`."""

    port: Annotated[int, Meta(ge=1, le=65535)]
    token: Annotated[bytes, Meta(min_length=SHORTCUT_TOKEN_BYTES, max_length=SHORTCUT_TOKEN_BYTES)]
    key: Annotated[bytes, Meta(min_length=32, max_length=32)]

    def __repr__(self) -> str:
        return f"Shortcut(port={self.port})"  # the rest is secret


class Ping(Message, frozen=True, kw_only=True, tag="ping"):
    """`bytes_per_s` is what the last bulk payloads to whoever gets this reached; 0 if there were none."""

    nonce: Number
    bytes_per_s: Annotated[float, Meta(ge=0, le=MAX_BYTES_PER_S)] = 0.0


class Pong(Message, frozen=True, kw_only=True, tag="pong"):
    nonce: Number


AnyMessage = (
    Hello
    | Shortcut
    | Ping
    | Pong
    | Open
    | Relink
    | Replay
    | Transfer
    | StateEnd
    | Inspect
    | Close
    | Done
    | Failed
    | StepMessage
    | Output
    | StepFailed
    | Replayed
    | StatePart
    | Leaving
)
