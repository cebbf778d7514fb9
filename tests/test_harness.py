"""The process harness: what it starts is real, and what is left behind is found."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from swarm.core.span import Span
from tests.conftest import SwarmFactory
from tests.peers import LocalSwarm
from tests.processes import ROOT, Zygote
from tests.swarm_records import wait_all_free
from tests.waiting import wait_for


@pytest.fixture(scope="module")
def fake_zygote(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Zygote]:
    zygote = Zygote(tmp_path_factory.mktemp("fake") / "log", "tests.fake_command", bare=True)
    yield zygote
    assert not zygote.close()


@pytest.fixture
def swarm(fake_zygote: Zygote) -> LocalSwarm:
    return LocalSwarm(fake_zygote)


def test_a_node_is_a_process_of_its_own_that_says_where_it_is(swarm: LocalSwarm) -> None:
    with swarm:
        peer = swarm.serve("good", "2:5")
        assert psutil.pid_exists(peer.pid)
        assert peer.span == Span(2, 5)
        assert swarm.addresses == ["/ip4/127.0.0.1/tcp/1/p2p/Qm"]
    assert peer.status == 0


def test_a_command_runs_to_its_end_with_its_input_and_output(swarm: LocalSwarm) -> None:
    with swarm:
        finished = swarm.run("echo", "there", stdin=b"hello ")
    assert (finished.status, finished.stdout, finished.stderr) == (0, "", "hello there\n")


def test_a_node_that_ends_before_it_is_ready_shows_its_log(swarm: LocalSwarm) -> None:
    with swarm, pytest.raises(AssertionError, match="this peer is broken"):
        swarm.serve("broken")


def test_kill_is_a_real_kill(swarm: LocalSwarm) -> None:
    with swarm:
        peer = swarm.serve("good")
        peer.kill()
        assert peer.status == -signal.SIGKILL
        assert swarm.addresses == []


def test_a_suspended_process_stands_still_until_resumed(swarm: LocalSwarm) -> None:
    with swarm:
        peer = swarm.serve("good")
        process = psutil.Process(peer.pid)
        peer.suspend()
        wait_for(lambda: process.status() == psutil.STATUS_STOPPED, 5.0, "the process stops")
        peer.resume()
        wait_for(lambda: process.status() != psutil.STATUS_STOPPED, 5.0, "the process goes on")


def test_an_orphan_is_found_and_ended(swarm: LocalSwarm, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.peers.SETTLE_DEADLINE_S", 0.1)
    with pytest.raises(AssertionError, match="sleep 60"), swarm:  # noqa: PT012
        peer = swarm.serve("orphan")
        (child,) = psutil.Process(peer.pid).children()
        peer.kill()
    wait_for(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE, 5.0, "the orphan ends")


def test_a_socket_that_stays_behind_is_found(swarm: LocalSwarm, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.peers.SETTLE_DEADLINE_S", 0.1)
    with pytest.raises(AssertionError, match=r"file .*left\.sock"), swarm:
        swarm.serve("socket").kill()


def test_a_node_that_does_not_stop_is_found_and_killed(
    swarm: LocalSwarm, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tests.peers.POLITE_DEADLINE_S", 0.1)
    monkeypatch.setattr("tests.peers.STOP_DEADLINE_S", 0.1)
    with pytest.raises(AssertionError, match="did not stop"), swarm:
        peer = swarm.serve("deaf")
    assert peer.status == -signal.SIGKILL


def test_a_failing_test_keeps_its_own_error(swarm: LocalSwarm, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.peers.SETTLE_DEADLINE_S", 0.1)
    with pytest.raises(ValueError, match="mine"), swarm:  # noqa: PT012
        swarm.serve("orphan")
        raise ValueError("mine")


@pytest.mark.slow
def test_everything_dies_with_a_killed_test_session(tmp_path: Path) -> None:
    script = (
        "import sys, signal, os; from pathlib import Path; from tests.processes import Zygote; "
        "from tests.peers import LocalSwarm; "
        f"zygote = Zygote(Path({str(tmp_path / 'log')!r}), 'tests.fake_command', bare=True); "
        "swarm = LocalSwarm(zygote); print(swarm.folder, swarm.serve('good').pid, flush=True); signal.pause()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script], cwd=ROOT, stdout=subprocess.PIPE, text=True
    ) as session:
        assert session.stdout is not None
        folder, pid = session.stdout.readline().split()
        peer = psutil.Process(int(pid))
        session.kill()
    wait_for(
        lambda: not peer.is_running() or peer.status() == psutil.STATUS_ZOMBIE, 10.0, "the peer dies too"
    )
    for path in sorted(Path(folder).rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()
    Path(folder).rmdir()


@pytest.mark.slow
@pytest.mark.network
def test_a_killed_node_leaves_nothing_behind(swarm_factory: SwarmFactory) -> None:
    with swarm_factory() as swarm:
        first, second = swarm.bootstrap(), swarm.bootstrap()
        assert any("p2pd" in process.name() for process in first.traces.processes.values())
        first.kill()
        assert swarm.addresses == [second.addresses[0]]
    assert (first.status, second.status) == (-signal.SIGKILL, 0)


@pytest.mark.slow
@pytest.mark.network
def test_a_command_that_fails_shows_one_line_and_its_status(swarm_factory: SwarmFactory) -> None:
    with swarm_factory() as swarm:
        finished = swarm.run("bootstrap", "--port", "many")
    assert finished.status == 2
    assert len(finished.stderr.splitlines()) == 1


@pytest.mark.slow
def test_the_zygote_has_one_thread_so_that_forking_is_safe(zygote: Zygote) -> None:
    with LocalSwarm(zygote) as swarm:
        assert swarm.run("version").status == 0
        assert zygote.pid is not None
        assert psutil.Process(zygote.pid).num_threads() == 1


@pytest.mark.slow
@pytest.mark.network
def test_real_peers_serve_announce_and_leave_nothing(swarm_factory: SwarmFactory) -> None:
    with swarm_factory() as swarm:
        first, second = swarm.serve("demo", "0:4"), swarm.serve("demo", "4:8")
        announced = {record.peer_id: record.span for record in wait_all_free(swarm.addresses)}
        assert announced == {first.peer_id: Span(0, 4), second.peer_id: Span(4, 8)}
        assert (first.span, second.span) == (Span(0, 4), Span(4, 8))
        second.kill()
    assert first.status == 0
