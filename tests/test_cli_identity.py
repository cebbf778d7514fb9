"""Two running nodes of one machine never share an identity."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from swarm.cli.claimed_identity import claimed_identity
from swarm.cli.ready_file import clear_ready_file
from swarm.core.errors import ConfigError, NodeError
from swarm.security.identity import Identity


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    return tmp_path / "swarm"


def test_the_default_identity_is_made_once_and_kept(home: Path) -> None:
    with claimed_identity(None) as path:
        assert path == home / "identity"
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        first = Identity.load(path).peer_id
    with claimed_identity(None) as path:
        assert Identity.load(path).peer_id == first


def test_while_one_is_used_the_next_node_takes_another(home: Path) -> None:
    with claimed_identity(None) as one, claimed_identity(None) as two, claimed_identity(None) as three:
        assert [one, two, three] == [home / "identity", home / "identity-2", home / "identity-3"]
        assert len({Identity.load(path).peer_id for path in (one, two, three)}) == 3
    with claimed_identity(None) as again:
        assert again == one


def test_a_bootstrap_node_has_an_identity_of_its_own(home: Path) -> None:
    with claimed_identity(None, "identity-bootstrap") as path:
        assert path == home / "identity-bootstrap"


def test_a_given_identity_in_use_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "mine"
    with (
        claimed_identity(path),
        pytest.raises(ConfigError, match=f"--identity {path} is used by a running node"),
    ):
        claimed_identity(path).__enter__()
    with claimed_identity(path) as again:
        assert again == path


def test_a_corrupt_identity_is_an_error_that_names_the_file(home: Path) -> None:
    home.mkdir()
    (home / "identity").write_bytes(b"not a key")
    with pytest.raises(NodeError, match=r"the identity file .*identity is damaged"):
        claimed_identity(None).__enter__()


def test_an_identity_where_nothing_can_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"--identity .*: give a file that can be written"):
        claimed_identity(tmp_path / "file" / "identity").__enter__()


def test_a_ready_file_of_an_earlier_run_is_removed(tmp_path: Path) -> None:
    path = tmp_path / "ready.json"
    path.write_text("{}")
    clear_ready_file(path)
    clear_ready_file(path)
    assert not path.exists()


def test_a_ready_file_that_cannot_be_written_is_refused_at_once(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "none" / "ready.json"):
        with pytest.raises(ConfigError, match="--ready-file"):
            clear_ready_file(path)
