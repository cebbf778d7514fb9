"""What a peer announces on the DHT, and the keys under which it does.

One record per peer, signed by it, stored under two keys: a bucket of its model (what clients read) and a bucket of the
directory of all models (what `swarm status` without a model reads). The identity, the lease and the key are all under
the signature, so that nobody can announce, prolong or move a record for somebody else.
"""

from __future__ import annotations

import hashlib
from enum import StrEnum
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from swarm.core.span import Span
from swarm.routing.vivaldi import FARTHEST_S

BUCKETS = 8
MAX_LEASE_S = 30.0
MAX_CLOCK_SKEW_S = 15.0  # a record from further in the future would outlive its lease
MAX_RECORD_BYTES = 4096

MAX_LINKS = 32


def _printable(text: str) -> str:
    # strangers' names reach terminals: escape sequences and line breaks must not
    if not text.isprintable():
        raise ValueError("must not contain control characters")
    return text


_Seconds = Annotated[float, Field(ge=0, le=3600, allow_inf_nan=False)]
_Place = Annotated[float, Field(ge=-FARTHEST_S, le=FARTHEST_S, allow_inf_nan=False)]
_Height = Annotated[float, Field(ge=0, le=FARTHEST_S, allow_inf_nan=False)]
_Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
_Rate = Annotated[float, Field(ge=0, le=1e12, allow_inf_nan=False)]
_Count = Annotated[int, Field(ge=0, le=1 << 40)]
_Text = Annotated[str, AfterValidator(_printable)]
_PeerId = Annotated[str, Field(min_length=1, max_length=128, pattern=r"^[!-~]+$")]


class PeerState(StrEnum):
    """Life of a peer as others see it."""

    JOINING = "joining"
    ONLINE = "online"
    DRAINING = "draining"
    LEFT = "left"


class PeerRecord(BaseModel):
    """An announcement. Times are DHT time (seconds since the epoch).

    `seconds_per_layer` is what a decode step takes, `prefill_seconds_per_layer` what each token of a long prompt does;
    0 means not measured yet; `links` maps other peers to one-way seconds from this one;
    `coordinate` (two places, height, error, see `swarm.routing.vivaldi`) predicts links that nobody has measured;
    `pinned` peers never move; `load_s` is what loading one layer takes, 0 if unknown.
    `upload_bytes_per_s` and `download_bytes_per_s` are the best that bulk payloads from and to it got, 0 if unknown.
    `free_tokens` and `total_tokens` count token rows of the KV cache; `batching` is how steps of several sessions run;
    `codings` are the forms besides the model's dtype in which it takes and sends activations.
    """

    model_config = ConfigDict(extra="ignore", frozen=True)

    protocol: Annotated[int, Field(ge=0, lt=1 << 31)]
    peer_id: _PeerId
    name: Annotated[_Text, Field(max_length=64)] = ""
    addresses: Annotated[
        tuple[Annotated[_Text, Field(min_length=1, max_length=256)], ...], Field(max_length=16)
    ] = ()
    model_uid: Annotated[_Text, Field(min_length=8, max_length=128)]
    model_name: Annotated[_Text, Field(max_length=256)] = ""
    layers: Annotated[int, Field(ge=1, le=4096)]
    start: Annotated[int, Field(ge=0, le=4096)]
    end: Annotated[int, Field(ge=1, le=4096)]
    state: PeerState
    precision: Annotated[_Text, Field(max_length=32)]
    batching: Annotated[_Text, Field(max_length=32)] = ""
    codings: Annotated[tuple[Annotated[_Text, Field(max_length=16)], ...], Field(max_length=8)] = ()
    seconds_per_layer: _Seconds = 0.0
    prefill_seconds_per_layer: _Seconds = 0.0
    queue_s: _Seconds = 0.0
    sessions: _Count = 0
    free_tokens: _Count = 0
    total_tokens: _Count = 0
    links: Annotated[dict[_PeerId, _Seconds], Field(max_length=MAX_LINKS)] = {}
    coordinate: tuple[_Place, _Place, _Height, _Share] | None = None
    upload_bytes_per_s: _Rate = 0.0
    download_bytes_per_s: _Rate = 0.0
    pinned: bool = False
    load_s: _Seconds = 0.0
    computed_tokens: Annotated[int, Field(ge=0)] = 0
    version: Annotated[_Text, Field(max_length=32)] = ""
    issued_at: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    expires_at: Annotated[float, Field(ge=0, allow_inf_nan=False)]

    @model_validator(mode="after")
    def _is_consistent(self) -> PeerRecord:
        if not self.start < self.end <= self.layers:
            raise ValueError(f"span {self.start}:{self.end} is not inside {self.layers} layers")
        if not self.issued_at < self.expires_at <= self.issued_at + MAX_LEASE_S:
            raise ValueError(f"a lease lasts more than 0 and at most {MAX_LEASE_S:g} s")
        return self

    @property
    def span(self) -> Span:
        return Span(self.start, self.end)


def bucket_of(peer_id: str) -> int:
    """The bucket (0 .. BUCKETS - 1) in which this peer's records stand."""
    return hashlib.sha256(peer_id.encode()).digest()[0] % BUCKETS


def model_key(model_uid: str, bucket: int) -> str:
    """DHT key of one bucket of a model's peers."""
    return f"swarm/1/model/{model_uid}/{bucket}"


def directory_key(bucket: int) -> str:
    """DHT key of one bucket of the peers of all models."""
    return f"swarm/1/directory/{bucket}"


def keys_of(record: PeerRecord) -> tuple[str, str]:
    """The two keys under which this record may stand, and no others."""
    bucket = bucket_of(record.peer_id)
    return model_key(record.model_uid, bucket), directory_key(bucket)
