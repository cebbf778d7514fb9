"""Signed values: a body with its signer's public key and signature in front.

    32-byte Ed25519 public key | 64-byte signature of (domain + body) | body

The domain keeps a signature made here from meaning anything in another protocol that uses the same key.
"""

from __future__ import annotations

from swarm.security.identity import Identity, verify_key
from swarm.security.peer_id import peer_id_of

OVERHEAD_BYTES = 96
_KEY_BYTES = 32
_DOMAIN = b"swarm-signed-1:"


def seal(body: bytes, identity: Identity) -> bytes:
    """`body` signed by `identity`."""
    return identity.public_key + identity.sign(_DOMAIN + body) + body


def unseal(value: bytes, max_bytes: int) -> tuple[bytes, str] | None:
    """The body and the peer id of who signed it; None if it is longer than `max_bytes`, damaged or forged."""
    if not OVERHEAD_BYTES < len(value) <= max_bytes:
        return None
    public_key, signature, body = value[:_KEY_BYTES], value[_KEY_BYTES:OVERHEAD_BYTES], value[OVERHEAD_BYTES:]
    if not verify_key(public_key, _DOMAIN + body, signature):
        return None
    return body, peer_id_of(public_key)
