"""Messages that carry tensors from hop to hop, and what became of them."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from swarm.wire.message import (
    MAX_ROWS,
    MAX_TRACED,
    FailureKind,
    Layer,
    Message,
    Number,
    PeerIdText,
    Position,
    Seconds,
    SessionId,
    StepNumber,
    TensorMessage,
    Text,
)


class HopTiming(Message, frozen=True, kw_only=True):
    """What one step cost on one hop, in seconds."""

    peer: PeerIdText
    queue_s: Seconds
    compute_s: Seconds
    serialise_s: Seconds = 0.0


Trace = Annotated[list[HopTiming], Meta(max_length=MAX_TRACED)]


class ReplayInfo(Message, frozen=True, kw_only=True):
    """Marks a step as part of a replay: outputs go no further than layer `until`; `last` ends it."""

    until: Layer
    last: bool


class StepMessage(TensorMessage, frozen=True, kw_only=True, tag="step"):
    """New tokens for a session; see `swarm.shards.step.Step`. `keep_last` 0 asks for all positions of the output."""

    session: SessionId
    number: Number
    start: Position
    select_rows: (
        Annotated[list[Annotated[int, Meta(ge=0, lt=MAX_ROWS)]], Meta(min_length=1, max_length=MAX_ROWS)]
        | None
    ) = None
    keep_last: Position = 0
    replay: ReplayInfo | None = None
    trace: Trace = []


class Output(TensorMessage, frozen=True, kw_only=True, tag="output"):
    """The output of the last hop of a segment, for the client; `session` is that hop's session."""

    session: SessionId
    number: Number
    start: Position
    trace: Trace = []


class StepFailed(Message, frozen=True, kw_only=True, tag="step_failed"):
    """A step stopped at the hop that holds `session`; `peer` names the neighbour at fault, if there is one."""

    session: SessionId
    number: Number
    kind: FailureKind
    message: Text
    peer: PeerIdText | None = None


class Replayed(Message, frozen=True, kw_only=True, tag="replayed"):
    """The whole past has arrived in the cache of `session`."""

    session: SessionId
    length: Position
    step: StepNumber


class StatePart(TensorMessage, frozen=True, kw_only=True, tag="state"):
    """Positions from `start` of a cache layer, or of the kept outputs (`layer` None), for the session `session`.

    Parts of one layer come in order.
    """

    session: SessionId
    layer: Layer | None = None
    start: Position = 0
