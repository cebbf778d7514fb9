"""What the DHT may hold: records signed by the peer they are about, under the keys and for the time they name.

hivemind asks `RecordGate` about every record that somebody wants stored here or that was found elsewhere. The DHT key
of a record is a hash, so the record itself names its keys, and they are hashed again.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

import msgpack

from swarm.core.errors import SwarmError
from swarm.security.signed import OVERHEAD_BYTES, unseal

logger = logging.getLogger(__name__)

MAX_BODY_BYTES = 4096
MAX_VALUE_BYTES = MAX_BODY_BYTES + OVERHEAD_BYTES
MAX_LEASE_S = 30.0
CLOCK_SKEW_S = 3.0
_EXPIRY_TOLERANCE_S = 1e-3
_REMEMBERED = 2048


class RecordClaims(NamedTuple):
    """What a record's body says about itself. Times are seconds since the epoch."""

    peer_id: str
    keys: tuple[str, ...]
    issued_at: float
    expires_at: float


Inspect = Callable[[bytes], RecordClaims | tuple[str, tuple[str, ...], float, float]]


class Verified(NamedTuple):
    """A record whose signature is right and is its peer's own."""

    body: bytes
    claims: RecordClaims
    key_hashes: frozenset[bytes]


class RecordGate:
    """Decides which records are valid.

    Args:
        inspect: reads the claims out of a body; raises ValueError or SwarmError if it is no record.
    """

    def __init__(self, inspect: Inspect) -> None:
        self._inspect = inspect
        # a record is seen many times (every replica, every read): check its signature once
        self._verify = lru_cache(maxsize=_REMEMBERED)(self._verify_uncached)

    def verified(self, value: bytes) -> Verified | None:
        """The body and claims of a sealed record; None if it is not signed by the peer that it is about."""
        if len(value) > MAX_VALUE_BYTES:
            return None
        return self._verify(value)

    def opened(self, value: object) -> Verified | None:
        """The same for a record as hivemind stores it: packed once more."""
        sealed = _unpack(value, bytes)
        return self.verified(sealed) if isinstance(sealed, bytes) else None

    def admits(self, key: bytes, subkey: bytes, value: bytes, expiration: float, now: float) -> bool:
        """Whether this may stand in the DHT; key, subkey and value as hivemind stores them. Never raises.

        Records that have just expired are admitted: storage drops them anyway, and hivemind refuses all the records
        of an answer in which one is refused.
        """
        record, name = self.opened(value), _unpack(subkey, str)
        if record is None:
            return False
        claims = record.claims
        return (
            name == claims.peer_id
            and abs(expiration - claims.expires_at) <= _EXPIRY_TOLERANCE_S
            and claims.issued_at < claims.expires_at <= claims.issued_at + MAX_LEASE_S
            and claims.expires_at <= now + MAX_LEASE_S + CLOCK_SKEW_S
            and key in record.key_hashes
        )

    def _verify_uncached(self, value: bytes) -> Verified | None:
        opened = unseal(value, MAX_VALUE_BYTES)
        if opened is None:
            return None
        body, signer = opened
        try:
            claims = RecordClaims(*self._inspect(body))
            hashes = frozenset(map(key_hash, claims.keys))
        except (ValueError, TypeError, SwarmError) as exc:
            logger.debug("a signed record of %s is malformed: %s", signer, exc)
            return None
        return Verified(body, claims, hashes) if claims.peer_id == signer else None


def key_hash(key: str) -> bytes:
    """The hash under which hivemind stores a text key."""
    return hashlib.sha1(msgpack.packb(key, use_bin_type=True)).digest()


def _unpack(data: object, kind: type) -> object:
    """One msgpack value of exactly this type; None if the data is anything else."""
    if not isinstance(data, bytes) or len(data) > MAX_VALUE_BYTES + 8:
        return None
    try:
        value: object = msgpack.unpackb(data, raw=False, max_array_len=0, max_map_len=0, max_ext_len=0)
    except (ValueError, msgpack.UnpackException):
        return None
    return value if type(value) is kind else None
