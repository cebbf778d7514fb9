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

from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter

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


class Hello(Message):
    """First message in both directions."""

    type: Literal["hello"] = "hello"
    protocol: Annotated[int, Field(ge=0, lt=1 << 31)]
    software: Annotated[str, Field(max_length=64)] = ""


class Shortcut(Message):
    """Where a peer takes direct connections; its own message on a stream of its own, see `swarm.wire.shortcut`."""

    type: Literal["shortcut"] = "shortcut"
    port: Annotated[int, Field(ge=1, le=65535)]
    token: Annotated[bytes, Field(min_length=SHORTCUT_TOKEN_BYTES, max_length=SHORTCUT_TOKEN_BYTES)]
    key: Annotated[bytes, Field(min_length=32, max_length=32, repr=False)]


class Ping(Message):
    """`bytes_per_s` is what the last bulk payloads to whoever gets this reached; 0 if there were none."""

    type: Literal["ping"] = "ping"
    nonce: Number
    bytes_per_s: Annotated[float, Field(ge=0, le=MAX_BYTES_PER_S, allow_inf_nan=False)] = 0.0


class Pong(Message):
    type: Literal["pong"] = "pong"
    nonce: Number


AnyMessage = Annotated[
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
    | Leaving,
    Field(discriminator="type"),
]
_ADAPTER: TypeAdapter[Any] = TypeAdapter(AnyMessage)


def parse(header: object) -> Message:
    """Validate a decoded header.

    Raises:
        pydantic.ValidationError: if it is not exactly one of the messages above.
    """
    message: Message = _ADAPTER.validate_python(header)
    return message
