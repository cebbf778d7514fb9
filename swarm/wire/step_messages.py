"""Messages that carry tensors from hop to hop, and what became of them."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from swarm.wire.message import (
    MAX_ROWS,
    FailureKind,
    Layer,
    Message,
    Number,
    PeerIdText,
    Position,
    SessionId,
    Tensors,
    Text,
)


class HopTiming(Message):
    """What one step cost on one hop, in seconds."""

    peer: PeerIdText
    queue_s: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    compute_s: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    serialise_s: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0


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
