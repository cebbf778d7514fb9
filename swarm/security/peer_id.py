"""Peer ids: the base58 name of a node, which for Ed25519 keys contains the public key itself.

A libp2p peer id of a short key is the key's protobuf wrapped in an "identity" multihash (code 0, no hashing):
`00 24 | 08 01 12 20 | 32-byte Ed25519 public key`. See the peer-ids specification of libp2p.
"""

from __future__ import annotations

_ALPHABET = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
_VALUE_OF = {char: value for value, char in enumerate(_ALPHABET)}
_PREFIX = bytes.fromhex("002408011220")
_KEY_BYTES = 32
_MAX_TEXT = 64


def peer_id_of(public_key: bytes) -> str:
    """The peer id of a 32-byte Ed25519 public key."""
    assert len(public_key) == _KEY_BYTES
    return _base58(_PREFIX + public_key)


def public_key_of(peer_id: str) -> bytes | None:
    """The Ed25519 public key inside a peer id; None if the text is anything else."""
    if not 1 <= len(peer_id) <= _MAX_TEXT or any(char not in _VALUE_OF for char in peer_id):
        return None
    number = 0
    for char in peer_id:
        number = number * 58 + _VALUE_OF[char]
    zeros = len(peer_id) - len(peer_id.lstrip("1"))
    raw = bytes(zeros) + number.to_bytes((number.bit_length() + 7) // 8, "big")
    if len(raw) != len(_PREFIX) + _KEY_BYTES or not raw.startswith(_PREFIX):
        return None
    return raw[len(_PREFIX) :]


def _base58(raw: bytes) -> str:
    number = int.from_bytes(raw, "big")
    digits = []
    while number:
        number, digit = divmod(number, 58)
        digits.append(_ALPHABET[digit])
    zeros = len(raw) - len(raw.lstrip(b"\0"))
    return "1" * zeros + "".join(reversed(digits))
