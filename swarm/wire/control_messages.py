"""Messages about a session: each request is answered by `Done` or `Failed`."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

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
    Seconds,
    SessionId,
    StepNumber,
    Text,
)


class NextHop(Message, frozen=True, kw_only=True):
    """Where a hop sends its output: the session `session` at `peer`."""

    peer: PeerIdText
    session: SessionId
    addresses: Annotated[list[Address], Meta(max_length=16)] = []


class Request(Message, frozen=True, kw_only=True):
    """A control message; its answer repeats `request`."""

    request: Number


class Open(Request, frozen=True, kw_only=True, tag="open"):
    """Create a session for layers `[start, end)` with room for `tokens` token rows (rows x positions).

    `previous` is the only peer besides the client that may send steps into it; None when only the client does.
    `next` is where outputs go; None sends them to the client. `rollback` keeps what sliding-window layers need
    to roll back. `prefix` has a hash for every full block of the coming prompt, each covering the one before (see
    `Close`): the session begins with a copy of the longest run of blocks that an ended session left here, and
    `Done.length` says how many positions that is; 0 if there is none. `coding` is one of the peer's record. `donor` is
    the only peer that may bring the state of a session that it holds; see `Transfer`. `near` are peers that will soon
    send here: links to them are opened now, as far as that works, so that nobody has to wait for that later.
    """

    session: SessionId
    model_uid: Annotated[str, Meta(min_length=8, max_length=128)]
    precision: Annotated[str, Meta(max_length=32)]
    start: Layer
    end: Layer
    tokens: Annotated[int, Meta(ge=1, le=1 << 32)]
    rollback: bool = False
    prefix: Prefix = []
    coding: Coding | None = None
    previous: PeerIdText | None = None
    next: NextHop | None = None
    donor: PeerIdText | None = None
    near: Annotated[list[NextHop], Meta(max_length=MAX_NEAR)] = []

    def __post_init__(self) -> None:
        if self.start >= self.end:
            raise ValueError("start must be below end")


class Relink(Request, frozen=True, kw_only=True, tag="relink"):
    """Change the neighbours of a session."""

    session: SessionId
    previous: PeerIdText | None = None
    next: NextHop | None = None


class Replay(Request, frozen=True, kw_only=True, tag="replay"):
    """Send the kept outputs of the whole session to `next`, `chunk` positions at a time (0: all at once).

    Hops whose last layer is below `until` send the replayed outputs on; the one that ends at `until` reports
    `Replayed`.
    """

    session: SessionId
    until: Layer
    chunk: Position = 0


class Transfer(Request, frozen=True, kw_only=True, tag="transfer"):
    """Hand the session's state to the session `to`, which is for the same layers and names this peer as its donor.

    Answered with the length and last step once all of it has arrived there. The session itself stays as it is.
    """

    session: SessionId
    to: NextHop


class StateEnd(Request, frozen=True, kw_only=True, tag="state_end"):
    """All parts of a state were sent: the session `session` has now `length` positions and this last step.

    `masked` says whether any step ever brought a mask. Answered once all of it is in place.
    """

    session: SessionId
    length: Position
    step: StepNumber
    masked: bool


class Inspect(Request, frozen=True, kw_only=True, tag="inspect"):
    """Ask for the state of a session; answered by `Done` with its length and last step."""

    session: SessionId


class Close(Request, frozen=True, kw_only=True, tag="close"):
    """End a session and free what it holds; closing an unknown session is not an error.

    With `prefix`, the hashes of its first blocks of 32 positions, the hop may keep its cache for later sessions that
    begin alike. Hashes are made by the client over its own inputs; hops only compare them.
    """

    session: SessionId
    prefix: Prefix = []


class Done(Message, frozen=True, kw_only=True, tag="done"):
    """A control message succeeded."""

    request: Number
    length: Position = 0
    step: StepNumber = -1
    free_tokens: Annotated[int, Meta(ge=0)] = 0


class Failed(Message, frozen=True, kw_only=True, tag="failed"):
    """A control message failed."""

    request: Number
    kind: FailureKind
    message: Text
    retry_after_s: Seconds = 0.0


class Leaving(Message, frozen=True, kw_only=True, tag="leaving"):
    """The peer wants to leave: the client should move its session `session` elsewhere, when it suits it."""

    session: SessionId
