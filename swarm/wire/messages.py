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

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, model_validator

from swarm.core.config import Coding

PROTOCOL_VERSION = 1
MAX_ROWS = 1024
MAX_POSITION = 1 << 24
MAX_TENSORS = 16
MAX_PREFIX_BLOCKS = 2048
MAX_NEAR = 2
SHORTCUT_TOKEN_BYTES = 16

SessionId = Annotated[bytes, Field(min_length=16, max_length=16)]
PeerIdText = Annotated[str, Field(min_length=1, max_length=128, pattern=r"^[1-9A-HJ-NP-Za-km-z]+$")]
Address = Annotated[str, Field(min_length=1, max_length=512)]
Layer = Annotated[int, Field(ge=0, le=4096)]
Position = Annotated[int, Field(ge=0, le=MAX_POSITION)]
Number = Annotated[int, Field(ge=0, lt=1 << 53)]
BlockHash = Annotated[bytes, Field(min_length=16, max_length=16)]
Prefix = Annotated[list[BlockHash], Field(max_length=MAX_PREFIX_BLOCKS)]
Text = Annotated[str, Field(max_length=2000)]
DType = Literal["float32", "bfloat16", "float16", "int64", "int32", "bool"]
FailureKind = Literal[
    "busy", "session_lost", "behind", "incompatible", "request", "next_unreachable", "internal"
]


class Message(BaseModel):
    """Base of all messages: unknown fields and loose types are refused."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class TensorMeta(Message):
    """One tensor in the payload; payload bytes stand in the order of the list, C-contiguous, little-endian.

    A coded one (see `swarm.wire.int8_blocks`) decodes into `dtype`; it is `[rows, tokens, ...]`, so that tokens are
    coded one by one.
    """

    name: Annotated[str, Field(min_length=1, max_length=24, pattern=r"^[a-z_]+(\.\d{1,2})?$")]
    dtype: DType
    shape: Annotated[list[Annotated[int, Field(ge=1, le=1 << 24)]], Field(min_length=1, max_length=5)]
    coding: Coding | None = None

    @model_validator(mode="after")
    def _may_be_coded(self) -> TensorMeta:
        if self.coding is None or is_codable(self.dtype, len(self.shape)):
            return self
        raise ValueError("only floats of single tokens are coded")


def is_codable(dtype: DType, dimensions: int) -> bool:
    return dtype in ("float32", "bfloat16", "float16") and dimensions >= 3


Tensors = Annotated[list[TensorMeta], Field(max_length=MAX_TENSORS)]


class NextHop(Message):
    """Where a hop sends its output: the session `session` at `peer`."""

    peer: PeerIdText
    session: SessionId
    addresses: Annotated[list[Address], Field(max_length=16)] = []


class HopTiming(Message):
    """What one step cost on one hop, in seconds."""

    peer: PeerIdText
    queue_s: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    compute_s: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    serialise_s: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0


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
    type: Literal["ping"] = "ping"
    nonce: Number


class Pong(Message):
    type: Literal["pong"] = "pong"
    nonce: Number


class Request(Message):
    """A control message; its answer repeats `request`."""

    request: Number


class Open(Request):
    """Create a session for layers `[start, end)` with room for `tokens` token rows (rows x positions).

    `previous` is the only peer besides the client that may send steps into it; None when only the client does.
    `next` is where outputs go; None sends them to the client. `rollback` keeps what sliding-window layers need
    to roll back. `prefix` has a hash for every full block of the coming prompt, each covering the one before (see
    `Close`): the session begins with a copy of the longest run of blocks that an ended session left here, and
    `Done.length` says how many positions that is; 0 if there is none. `coding` is one of the peer's record. `donor` is
    the only peer that may bring the state of a session that it holds; see `Transfer`. `near` are peers that will soon
    send here: links to them are opened now, as far as that works, so that nobody has to wait for that later.
    """

    type: Literal["open"] = "open"
    session: SessionId
    model_uid: Annotated[str, Field(min_length=8, max_length=128)]
    precision: Annotated[str, Field(max_length=32)]
    start: Layer
    end: Layer
    tokens: Annotated[int, Field(ge=1, le=1 << 32)]
    rollback: bool = False
    prefix: Prefix = []
    coding: Coding | None = None
    previous: PeerIdText | None = None
    next: NextHop | None = None
    donor: PeerIdText | None = None
    near: Annotated[list[NextHop], Field(max_length=MAX_NEAR)] = []

    @model_validator(mode="after")
    def _range_is_not_empty(self) -> Open:
        if self.start >= self.end:
            raise ValueError("start must be below end")
        return self


class Relink(Request):
    """Change the neighbours of a session."""

    type: Literal["relink"] = "relink"
    session: SessionId
    previous: PeerIdText | None = None
    next: NextHop | None = None


class Replay(Request):
    """Send the kept outputs of the whole session to `next`, `chunk` positions at a time (0: all at once).

    Hops whose last layer is below `until` send the replayed outputs on; the one that ends at `until` reports
    `Replayed`.
    """

    type: Literal["replay"] = "replay"
    session: SessionId
    until: Layer
    chunk: Position = 0


class Transfer(Request):
    """Hand the session's state to the session `to`, which is for the same layers and names this peer as its donor.

    Answered with the length and last step once all of it has arrived there. The session itself stays as it is.
    """

    type: Literal["transfer"] = "transfer"
    session: SessionId
    to: NextHop


class StateEnd(Request):
    """All parts of a state were sent: the session `session` has now `length` positions and this last step.

    `masked` says whether any step ever brought a mask. Answered once all of it is in place.
    """

    type: Literal["state_end"] = "state_end"
    session: SessionId
    length: Position
    step: Annotated[int, Field(ge=-1, lt=1 << 53)]
    masked: bool


class Inspect(Request):
    """Ask for the state of a session; answered by `Done` with its length and last step."""

    type: Literal["inspect"] = "inspect"
    session: SessionId


class Close(Request):
    """End a session and free what it holds; closing an unknown session is not an error.

    With `prefix`, the hashes of its first blocks of 64 positions, the hop may keep its cache for later sessions that
    begin alike. Hashes are made by the client over its own inputs; hops only compare them.
    """

    type: Literal["close"] = "close"
    session: SessionId
    prefix: Prefix = []


class Done(Message):
    """A control message succeeded."""

    type: Literal["done"] = "done"
    request: Number
    length: Position = 0
    step: Annotated[int, Field(ge=-1, lt=1 << 53)] = -1
    free_tokens: Annotated[int, Field(ge=0)] = 0


class Failed(Message):
    """A control message failed."""

    type: Literal["failed"] = "failed"
    request: Number
    kind: FailureKind
    message: Text
    retry_after_s: Annotated[float, Field(ge=0, le=3600, allow_inf_nan=False)] = 0.0


class ReplayInfo(Message):
    """Marks a step as part of a replay: outputs go no further than layer `until`; `last` ends it."""

    until: Layer
    last: bool


class StepMessage(Message):
    """New tokens for a session; see `swarm.shards.step.Step`. `keep_last` 0 asks for all positions of the output."""

    type: Literal["step"] = "step"
    session: SessionId
    number: Number
    start: Position
    select_rows: (
        Annotated[list[Annotated[int, Field(ge=0, lt=MAX_ROWS)]], Field(min_length=1, max_length=MAX_ROWS)]
        | None
    ) = None
    keep_last: Position = 0
    replay: ReplayInfo | None = None
    trace: Annotated[list[HopTiming], Field(max_length=512)] = []
    tensors: Annotated[Tensors, Field(min_length=1)]


class Output(Message):
    """The output of the last hop of a segment, for the client; `session` is that hop's session."""

    type: Literal["output"] = "output"
    session: SessionId
    number: Number
    start: Position
    trace: Annotated[list[HopTiming], Field(max_length=512)] = []
    tensors: Annotated[Tensors, Field(min_length=1)]


class StepFailed(Message):
    """A step stopped at the hop that holds `session`; `peer` names the neighbour at fault, if there is one."""

    type: Literal["step_failed"] = "step_failed"
    session: SessionId
    number: Number
    kind: FailureKind
    message: Text
    peer: PeerIdText | None = None


class Replayed(Message):
    """The whole past has arrived in the cache of `session`."""

    type: Literal["replayed"] = "replayed"
    session: SessionId
    length: Position
    step: Annotated[int, Field(ge=-1, lt=1 << 53)]


class StatePart(Message):
    """Positions from `start` of a cache layer, or of the kept outputs (`layer` None), for the session `session`.

    Parts of one layer come in order.
    """

    type: Literal["state"] = "state"
    session: SessionId
    layer: Layer | None = None
    start: Position = 0
    tensors: Annotated[Tensors, Field(min_length=1)]


class Leaving(Message):
    """The peer wants to leave: the client should move its session `session` elsewhere, when it suits it."""

    type: Literal["leaving"] = "leaving"
    session: SessionId


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
