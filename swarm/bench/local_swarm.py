"""Peers as processes of this machine, for the demo and for benchmarks.

Every peer runs `swarm serve` in a process group of its own, listens on 127.0.0.1 unless its `Place` says otherwise,
and writes its log and its ready file into one temporary folder. Leaving the context ends all of them and removes the
folder.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import Self

import psutil

import swarm
from swarm.core.errors import NodeError

_PACKAGE_ROOT = Path(swarm.__file__).parent.parent
_POLL_S = 0.05
_LOG_TAIL_LINES = 5
_HELPER_GRACE_S = 5.0
_ENDING_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@dataclass(frozen=True, slots=True)
class Place:
    """Where a peer runs: the address it listens on, and what its command line begins with (`ip netns exec ...`)."""

    host: str = "127.0.0.1"
    prefix: tuple[str, ...] = ()


LOOPBACK = Place()


@dataclass(frozen=True, slots=True)
class LocalPeer:
    """One peer process and the files it writes."""

    name: str
    process: subprocess.Popen[bytes]
    ready_file: Path
    log_file: Path

    @property
    def running(self) -> bool:
        return self.process.poll() is None

    @property
    def peer_id(self) -> str:
        """Its name in the swarm; only once it is ready."""
        return str(json.loads(self.ready_file.read_text())["peer_id"])

    def log_tail(self) -> str:
        """The last lines of its log, as one line."""
        lines = self.log_file.read_text(errors="replace").split("\n")
        return " | ".join([line for line in lines if line.strip()][-_LOG_TAIL_LINES:])


class LocalSwarm:
    """Starts, watches and stops peers. Use it as a context manager."""

    def __init__(self, threads: int = 1) -> None:
        self._threads = threads
        self._folder = TemporaryDirectory(prefix="swarm-local-")
        self._helpers: set[psutil.Process] = set()
        self.peers: list[LocalPeer] = []

    def start(self, name: str, *arguments: str, place: Place = LOOPBACK) -> LocalPeer:
        """Start `swarm ARGUMENTS...` (a `serve` or `bootstrap` command) without waiting for it."""
        folder = Path(self._folder.name)
        ready_file, log_file = folder / f"{name}.json", folder / f"{name}.log"
        command = [*place.prefix, sys.executable, "-m", "swarm.cli.main", *arguments, "--host", place.host]
        command += ["--ready-file", str(ready_file), "--identity", str(folder / f"{name}.identity")]
        with log_file.open("wb") as log:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=child_environment(os.environ, self._threads),
                start_new_session=True,  # Ctrl-C in the terminal is for us alone
            )
        peer = LocalPeer(name, process, ready_file, log_file)
        self.peers.append(peer)
        return peer

    def serve(
        self,
        name: str,
        model: str,
        layers: str,
        peers: Sequence[str] = (),
        *options: str,
        place: Place = LOOPBACK,
    ) -> LocalPeer:
        """Start a peer that serves `layers` (`A:B`) of `model` and joins `peers`."""
        join = [part for address in peers for part in ("--peers", address)]
        return self.start(
            name, "serve", model, "--layers", layers, "--name", name, "--threads", str(self._threads),
            "--device", "cpu", *join, *options, place=place,
        )  # fmt: skip

    def wait_ready(self, peer: LocalPeer, timeout_s: float = 120.0) -> list[str]:
        """Its addresses, once it serves.

        Raises:
            NodeError: it ended, or is not ready in time; the end of its log says why.
        """
        deadline = time.monotonic() + timeout_s
        while not peer.ready_file.exists():
            if not peer.running:
                status = peer.process.returncode
                raise NodeError(f"local peer {peer.name} ended with status {status}: {peer.log_tail()}")
            if time.monotonic() > deadline:
                raise NodeError(
                    f"local peer {peer.name} is not ready after {timeout_s:g} s: {peer.log_tail()}"
                )
            time.sleep(_POLL_S)
        addresses: list[str] = json.loads(peer.ready_file.read_text())["addresses"]
        return addresses

    def kill(self, peer: LocalPeer) -> None:
        """End the peer's process without a warning (SIGKILL)."""
        self._note_helpers()
        peer.process.kill()

    def ask_to_leave(self, peer: LocalPeer) -> None:
        """Let the peer hand over its sessions and end (SIGTERM)."""
        peer.process.send_signal(signal.SIGTERM)

    def suspend(self, peer: LocalPeer) -> None:
        """Stop the peer's process in its tracks (SIGSTOP); its p2pd runs on, as with a hung interpreter."""
        peer.process.send_signal(signal.SIGSTOP)

    def resume(self, peer: LocalPeer) -> None:
        """Let a suspended peer go on."""
        peer.process.send_signal(signal.SIGCONT)

    def stop(self, grace_s: float = 8.0) -> None:
        """Ask every peer to leave, end whatever of them is left after `grace_s`, and remove the folder."""
        with undisturbed():
            self._note_helpers()
            for peer in self.peers:
                if peer.running:
                    peer.process.terminate()
                    self.resume(peer)  # a suspended one would not see the signal
            deadline = time.monotonic() + grace_s
            for peer in self.peers:
                try:
                    peer.process.wait(max(0.0, deadline - time.monotonic()))
                except subprocess.TimeoutExpired:
                    peer.process.kill()
                    peer.process.wait()
            self._end_helpers()
            self._folder.cleanup()

    def _note_helpers(self) -> None:
        """Remember what the peers have started, while it can still be told whose it is."""
        for peer in self.peers:
            with suppress(psutil.Error):
                self._helpers.update(psutil.Process(peer.process.pid).children(recursive=True))

    def _end_helpers(self) -> None:
        """libp2p daemons and the like end by themselves when their peer does; those that do not are ended."""
        _, stubborn = psutil.wait_procs(self._helpers, timeout=_HELPER_GRACE_S)
        for process in stubborn:
            with suppress(psutil.Error):
                process.kill()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.stop(grace_s=8.0 if error is None else 2.0)


def child_environment(ours: Mapping[str, str], threads: int) -> dict[str, str]:
    """Ours without SWARM_* settings, which are meant for the command that the user runs."""
    kept = {name: value for name, value in ours.items() if not name.startswith("SWARM_")}
    path = [str(_PACKAGE_ROOT), *filter(None, [ours.get("PYTHONPATH")])]  # found from any working directory
    return kept | {
        "OMP_NUM_THREADS": str(threads),
        "PYTHONPATH": os.pathsep.join(path),
        "PYTHONUNBUFFERED": "1",
    }


@contextmanager
def undisturbed() -> Iterator[None]:
    """A second Ctrl-C must not stop the cleaning up."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = {number: signal.signal(number, signal.SIG_IGN) for number in _ENDING_SIGNALS}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
