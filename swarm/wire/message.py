"""What all messages have in common: how strict they are, and the bounds of what stands in them."""

from __future__ import annotations

import sys
from typing import Annotated, Literal

from msgspec import Meta, Struct

from swarm.core.config import Coding

MAX_ROWS = 1024
MAX_POSITION = 1 << 24
MAX_TENSORS = 16
MAX_DIMENSIONS = 5
MAX_DIMENSION = 1 << 24
MAX_PREFIX_BLOCKS = 2048
MAX_NEAR = 2
MAX_TRACED = 512
SHORTCUT_TOKEN_BYTES = 16

SessionId = Annotated[bytes, Meta(min_length=16, max_length=16)]
PeerIdText = Annotated[str, Meta(min_length=1, max_length=128, pattern=r"^[1-9A-HJ-NP-Za-km-z]+\Z")]
Address = Annotated[str, Meta(min_length=1, max_length=512)]
Layer = Annotated[int, Meta(ge=0, le=4096)]
Position = Annotated[int, Meta(ge=0, le=MAX_POSITION)]
Number = Annotated[int, Meta(ge=0, lt=1 << 53)]
StepNumber = Annotated[int, Meta(ge=-1, lt=1 << 53)]
Seconds = Annotated[float, Meta(ge=0, le=sys.float_info.max)]  # neither NaN nor infinity is within bounds
BlockHash = Annotated[bytes, Meta(min_length=16, max_length=16)]
Prefix = Annotated[list[BlockHash], Meta(max_length=MAX_PREFIX_BLOCKS)]
Text = Annotated[str, Meta(max_length=2000)]
DType = Literal["float32", "bfloat16", "float16", "int64", "int32", "bool"]
FailureKind = Literal[
    "busy", "session_lost", "behind", "incompatible", "request", "next_unreachable", "internal"
]


class Message(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, gc=False):
    """Base of all messages: unknown fields and loose types are refused where one is decoded.

    Making one checks nothing. Fields that have their default are left out on the wire.
    """

    # gc=False: a message holds numbers, text, bytes and lists of smaller messages, so that no cycle runs through it


class TensorMeta(Message, frozen=True, kw_only=True):
    """One tensor in the payload; payload bytes stand in the order of the list, C-contiguous, little-endian.

    A coded one (see `swarm.wire.int8_blocks`) decodes into `dtype`; it is `[rows, tokens, ...]`, so that tokens are
    coded one by one.
    """

    name: Annotated[str, Meta(min_length=1, max_length=24, pattern=r"^[a-z_]+(\.\d{1,2})?\Z")]
    dtype: DType
    shape: Annotated[
        list[Annotated[int, Meta(ge=1, le=MAX_DIMENSION)]], Meta(min_length=1, max_length=MAX_DIMENSIONS)
    ]
    coding: Coding | None = None


def is_codable(dtype: DType, dimensions: int) -> bool:
    return dtype in ("float32", "bfloat16", "float16") and dimensions >= 3


class TensorMessage(Message, frozen=True, kw_only=True):
    """A message whose tensors are the payload of its frame."""

    tensors: Annotated[list[TensorMeta], Meta(min_length=1, max_length=MAX_TENSORS)]
