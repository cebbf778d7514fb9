"""Identities and signed values: files, peer ids, and forgeries."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarm.core.errors import NodeError
from swarm.security.identity import Identity, verify
from swarm.security.peer_id import peer_id_of, public_key_of
from swarm.security.signed import OVERHEAD_BYTES, seal, unseal

# test vector 1 of RFC 8032, section 7.1
SEED = bytes.fromhex("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60")
PUBLIC = bytes.fromhex("d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a")
MINE, OTHER = Identity(SEED), Identity(bytes(32))


def test_the_public_key_is_that_of_the_standard() -> None:
    assert MINE.public_key == PUBLIC


def test_the_peer_id_is_the_identity_multihash_of_the_key() -> None:
    assert MINE.peer_id == peer_id_of(PUBLIC)
    assert MINE.peer_id.startswith("12D3KooW")
    assert public_key_of(MINE.peer_id) == PUBLIC


@given(st.binary(min_size=32, max_size=32))
def test_every_key_comes_back_out_of_its_peer_id(key: bytes) -> None:
    assert public_key_of(peer_id_of(key)) == key


@given(st.text(max_size=80))
def test_other_texts_contain_no_key(text: str) -> None:
    key = public_key_of(text)
    assert key is None or peer_id_of(key) == text


@pytest.mark.parametrize(
    "text", ["", "1", "Q" * 64, "12D3KooW", "0OIl", MINE.peer_id + "1", "1" + MINE.peer_id]
)
def test_malformed_peer_ids_contain_no_key(text: str) -> None:
    assert public_key_of(text) is None


def test_a_signature_holds_for_its_peer_and_message_alone() -> None:
    signature = MINE.sign(b"message")
    assert verify(MINE.peer_id, b"message", signature)
    assert not verify(OTHER.peer_id, b"message", signature)
    assert not verify(MINE.peer_id, b"massage", signature)
    assert not verify(MINE.peer_id, b"message", signature[:-1])
    assert not verify("no peer id", b"message", signature)


def test_a_new_identity_is_written_for_its_owner_only_and_read_again(tmp_path: Path) -> None:
    path = tmp_path / "new" / "identity.key"
    made = Identity.load_or_create(path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.read_bytes() == bytes.fromhex("08011240") + made.seed + made.public_key
    assert Identity.load_or_create(path) == made
    assert os.listdir(path.parent) == ["identity.key"]


def test_ephemeral_identities_differ() -> None:
    assert Identity.ephemeral().peer_id != Identity.ephemeral().peer_id


def test_a_key_does_not_show_in_logs() -> None:
    assert SEED.hex() not in repr(MINE)
    assert repr(SEED) not in repr(MINE)


def test_a_file_that_others_may_read_is_made_private(tmp_path: Path) -> None:
    path = tmp_path / "identity.key"
    MINE.save(path)
    path.chmod(0o644)
    assert Identity.load(path) == MINE
    assert path.stat().st_mode & 0o777 == 0o600


_GOOD = MINE.to_file_bytes()
_DAMAGED = [b"", b"x", _GOOD[:-1], _GOOD + b"x", b"\x08\x00" + _GOOD[2:], _GOOD[:-1] + b"\0", bytes(1 << 20)]


@pytest.mark.parametrize("raw", _DAMAGED)
def test_a_damaged_file_is_refused_in_one_line(tmp_path: Path, raw: bytes) -> None:
    path = tmp_path / "identity.key"
    path.write_bytes(raw)
    with pytest.raises(NodeError, match="damaged") as caught:
        Identity.load_or_create(path)
    assert "\n" not in str(caught.value)
    assert path.read_bytes() == raw


def test_a_folder_is_no_identity_file(tmp_path: Path) -> None:
    with pytest.raises(NodeError, match="identity file"):
        Identity.load_or_create(tmp_path)


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(NodeError, match="cannot write the identity file"):
        Identity.load_or_create(tmp_path / "file" / "identity.key")


def test_a_dangling_link_is_not_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "identity.key"
    path.symlink_to(tmp_path / "nowhere")
    with pytest.raises(NodeError, match="cannot read"):
        Identity.load_or_create(path)


def test_a_sealed_body_opens_with_its_signer() -> None:
    assert unseal(seal(b"body", MINE), 200) == (b"body", MINE.peer_id)


def test_a_sealed_body_over_the_limit_does_not_open() -> None:
    sealed = seal(b"body", MINE)
    assert len(sealed) == OVERHEAD_BYTES + 4
    assert unseal(sealed, len(sealed)) is not None
    assert unseal(sealed, len(sealed) - 1) is None


@given(st.integers(0, OVERHEAD_BYTES + 3), st.integers(1, 255))
def test_no_byte_of_a_sealed_body_can_be_changed(place: int, change: int) -> None:
    sealed = bytearray(seal(b"body", MINE))
    sealed[place] ^= change
    assert unseal(bytes(sealed), 200) is None


@given(st.binary(max_size=200))
def test_garbage_does_not_open(value: bytes) -> None:
    assert unseal(value, 4096) is None


def test_a_plain_signature_is_no_seal() -> None:
    assert unseal(MINE.public_key + MINE.sign(b"body") + b"body", 200) is None
