"""What all messages have in common: how strict they are, and the bounds of what stands in them."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from swarm.core.config import Coding

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
