"""Messages about a session: each request is answered by `Done` or `Failed`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from swarm.core.config import Coding
from swarm.wire.message import (
    MAX_NEAR,
    Address,
    FailureKind,
    Layer,
    Message,
    Number,
    PeerIdText,
    Position,
    Prefix,
    SessionId,
    Text,
)


class NextHop(Message):
    """Where a hop sends its output: the session `session` at `peer`."""

    peer: PeerIdText
    session: SessionId
    addresses: Annotated[list[Address], Field(max_length=16)] = []


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

    With `prefix`, the hashes of its first blocks of 32 positions, the hop may keep its cache for later sessions that
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
    retry_after_s: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0


class Leaving(Message):
    """The peer wants to leave: the client should move its session `session` elsewhere, when it suits it."""

    type: Literal["leaving"] = "leaving"
    session: SessionId
