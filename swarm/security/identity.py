"""Who a node is: an Ed25519 key pair in a file, in the form in which libp2p reads it.

The file is the protobuf of a libp2p private key: `08 01 12 40 | 32-byte seed | 32-byte public key`. Whoever can read
it can speak as this node, hence mode 0600.
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from secrets import token_hex

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from swarm.core.errors import NodeError
from swarm.security.peer_id import peer_id_of, public_key_of

_HEAD = bytes.fromhex("08011240")
_SEED_BYTES = 32
_FILE_BYTES = len(_HEAD) + 64
_SIGNATURE_BYTES = 64


@dataclass(frozen=True)
class Identity:
    """A node's key pair. Equal seeds make equal identities."""

    seed: bytes = field(repr=False)

    @cached_property
    def _key(self) -> Ed25519PrivateKey:
        return Ed25519PrivateKey.from_private_bytes(self.seed)

    @cached_property
    def public_key(self) -> bytes:
        """The 32-byte public key."""
        return self._key.public_key().public_bytes_raw()

    @cached_property
    def peer_id(self) -> str:
        """The base58 name under which others know this node."""
        return peer_id_of(self.public_key)

    def sign(self, message: bytes) -> bytes:
        """The 64-byte Ed25519 signature of `message`."""
        return self._key.sign(message)

    def to_file_bytes(self) -> bytes:
        """What an identity file holds."""
        return _HEAD + self.seed + self.public_key

    def save(self, path: Path) -> None:
        """Write the identity file, whole or not at all, readable by its owner only; an existing one is replaced.

        Raises:
            NodeError: if it cannot be written.
        """
        temporary = path.with_name(f".{path.name}.{token_hex(4)}")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            try:
                with os.fdopen(descriptor, "wb") as file:
                    file.write(self.to_file_bytes())
                    file.flush()
                    os.fsync(file.fileno())
                os.replace(temporary, path)
            finally:
                temporary.unlink(missing_ok=True)
        except OSError as exc:
            raise NodeError(f"cannot write the identity file {path}: {exc.strerror or exc}") from exc

    @classmethod
    def ephemeral(cls) -> Identity:
        """A new identity that stands in no file."""
        return cls(Ed25519PrivateKey.generate().private_bytes_raw())

    @classmethod
    def load(cls, path: Path) -> Identity:
        """Read an identity file; one that others may read is made private first.

        Raises:
            NodeError: if it is missing, unreadable, damaged, or open to others and cannot be made private.
        """
        try:
            _make_private(path)
            raw = path.read_bytes() if path.stat().st_size == _FILE_BYTES else b""
        except OSError as exc:
            raise NodeError(f"cannot read the identity file {path}: {exc.strerror or exc}") from exc
        identity = cls(raw[len(_HEAD) : len(_HEAD) + _SEED_BYTES]) if raw.startswith(_HEAD) else None
        if identity is None or identity.to_file_bytes() != raw:
            raise NodeError(
                f"the identity file {path} is damaged or not an Ed25519 libp2p key: restore it, "
                "or delete it to get a new identity"
            )
        return identity

    @classmethod
    def load_or_create(cls, path: Path) -> Identity:
        """Read the identity file, or make a new identity and write it there if there is none.

        Raises:
            NodeError: as `load` and `save`.
        """
        if os.path.lexists(path):
            return cls.load(path)
        identity = cls.ephemeral()
        identity.save(path)
        return identity


def verify(peer_id: str, message: bytes, signature: bytes) -> bool:
    """Whether `signature` of `message` was made by the node called `peer_id`; False for anything malformed."""
    public_key = public_key_of(peer_id)
    return public_key is not None and verify_key(public_key, message, signature)


def verify_key(public_key: bytes, message: bytes, signature: bytes) -> bool:
    """Whether `signature` of `message` was made with this public key; False for anything malformed."""
    if len(signature) != _SIGNATURE_BYTES:
        return False
    try:
        Ed25519PublicKey.from_public_bytes(public_key).verify(signature, message)
    except (InvalidSignature, ValueError):
        return False
    return True


def _make_private(path: Path) -> None:
    """Take away what group and others may do with the file."""
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & 0o077 == 0:
        return
    try:
        path.chmod(mode & 0o700)
    except OSError as exc:
        raise NodeError(f"the identity file {path} is open to other users: run  chmod 600 {path}") from exc
