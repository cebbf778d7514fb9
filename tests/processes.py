"""Real `swarm` commands as processes of a test, started by forking a zygote (see `tests.zygote`)."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from tests.leftovers import SESSION, Traces, marked_processes
from tests.waiting import wait_for

ROOT = Path(__file__).resolve().parent.parent
COMPILED = ROOT / "build" / "compiled"  # what tests compile, kept for all of them and for the next time
START_DEADLINE_S = 120.0
QUIET = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_VERBOSITY": "error",  # this and the next as `swarm.cli.main` sets them before it imports
    "HIVEMIND_LOGLEVEL": "CRITICAL",
    "PYTHONUNBUFFERED": "1",
}


class Zygote:
    """The test session's end of the zygote; starts it at the first `spawn`. Safe to use from several threads.

    Its forks call `main()` of `module`; with `bare` nothing is imported beforehand.
    """

    def __init__(self, log: Path, module: str = "swarm.cli.main", *, bare: bool = False) -> None:
        self.marker = uuid.uuid4().hex
        self._arguments = [module, "bare"] if bare else [module]
        self._log = log
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._channel: socket.socket | None = None
        self._buffer = b""
        self._messages: list[dict[str, Any]] = []
        self._statuses: dict[int, int] = {}

    @property
    def pid(self) -> int | None:
        """Its process id, None before the first `spawn`."""
        return self._process.pid if self._process is not None else None

    def spawn(
        self, argv: list[str], *, stdin: Path, stdout: Path, stderr: Path, env: dict[str, str], folder: Path
    ) -> int:
        """Run `swarm ARGV...` in a fork and return its process id."""
        request = {
            "argv": argv,
            "stdin": str(stdin),
            "stdout": str(stdout),
            "stderr": str(stderr),
            "env": env,
            "folder": str(folder),
        }
        with self._lock:
            if self._channel is None:
                self._channel = self._start()
            self._channel.sendall(json.dumps(request).encode() + b"\n")
            return int(self._await("pid", START_DEADLINE_S)["pid"])

    def exit_status(self, pid: int) -> int | None:
        """Exit status of a fork (negative: the signal that ended it), None while it runs."""
        with self._lock:
            self._receive(0.0)
            for message in [m for m in self._messages if "exited" in m]:
                self._messages.remove(message)
                self._statuses[message["exited"]] = message["status"]
            return self._statuses.get(pid)

    def close(self) -> list[psutil.Process]:
        """End the zygote; returns what of its descendants was still alive (and is killed now)."""
        if self._channel is not None:
            self._channel.close()
        if self._process is not None:
            self._process.wait(timeout=30)
        left = marked_processes(SESSION, self.marker)
        for process in left:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        return left

    def _start(self) -> socket.socket:
        ours, theirs = socket.socketpair()
        env = {name: value for name, value in os.environ.items() if not name.startswith("SWARM_")}
        with theirs, self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.zygote", str(theirs.fileno()), *self._arguments],
                cwd=ROOT,
                env=env | QUIET | {SESSION: self.marker},
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self._channel = ours
        self._await("ready", START_DEADLINE_S)
        return ours

    def _await(self, key: str, deadline_s: float) -> dict[str, Any]:
        end = time.monotonic() + deadline_s
        while True:
            for message in self._messages:
                if key in message:
                    self._messages.remove(message)
                    return message
            if time.monotonic() > end:
                raise AssertionError(f"the zygote did not answer within {deadline_s:g} s")
            self._receive(1.0)

    def _receive(self, timeout_s: float) -> None:
        """Take in what has arrived, waiting up to `timeout_s` for something."""
        if self._channel is None:
            return
        self._channel.settimeout(timeout_s)
        try:
            while data := self._channel.recv(65536):
                self._buffer += data
                self._channel.settimeout(0.0)
            raise AssertionError(f"the zygote died: {self._log.read_text()[-2000:]}")
        except (TimeoutError, BlockingIOError):
            pass
        finally:
            self._channel.settimeout(None)
        *lines, self._buffer = self._buffer.split(b"\n")
        self._messages.extend(json.loads(line) for line in lines)


@dataclass(frozen=True)
class Finished:
    """A command that ended by itself."""

    status: int
    stdout: str
    stderr: str


class CommandProcess:
    """One running `swarm` command."""

    def __init__(
        self,
        zygote: Zygote,
        argv: list[str],
        folder: Path,
        name: str,
        env: dict[str, str] | None = None,
        stdin: bytes = b"",
    ) -> None:
        self._zygote = zygote
        self.argv = argv
        self.stdout_path = folder / f"{name}.out"
        self.stderr_path = folder / f"{name}.err"
        stdin_path = folder / f"{name}.in"
        stdin_path.write_bytes(stdin)
        self.traces = Traces()
        self.pid = zygote.spawn(
            argv,
            stdin=stdin_path,
            stdout=self.stdout_path,
            stderr=self.stderr_path,
            env=env or {},
            folder=folder,
        )

    def __repr__(self) -> str:
        return f"<swarm {' '.join(self.argv)}, process {self.pid}, status {self.status}>"

    @property
    def status(self) -> int | None:
        """Exit status (negative: the signal that ended it), None while it runs."""
        return self._zygote.exit_status(self.pid)

    @property
    def log(self) -> str:
        """All it has written, standard output first."""
        return "".join(
            p.read_text(errors="replace") for p in (self.stdout_path, self.stderr_path) if p.exists()
        )

    def note_traces(self) -> None:
        """Remember its p2pd and its sockets, to be looked for after its death."""
        self.traces.note(self.pid)

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the command's own process, if it still runs."""
        if self.status is None:
            self.note_traces()
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def kill(self) -> None:
        """As `kill -9`; returns when it is dead."""
        self.signal(signal.SIGKILL)
        self.wait(10.0)

    def terminate(self) -> None:
        """Ask it to drain and leave."""
        self.signal(signal.SIGTERM)

    def stop_hard(self) -> None:
        """Ask it to leave, and ask again, which means at once."""
        self.terminate()
        wait_for(lambda: not self._has_pending_signals(), 10.0, f"{self!r} to take its first SIGTERM")
        self.terminate()

    def _has_pending_signals(self) -> bool:
        """Whether the system still holds a signal back: a second equal one would be merged with it."""
        try:
            lines = Path(f"/proc/{self.pid}/status").read_text().splitlines()
        except OSError:
            return False
        return any(line.startswith("ShdPnd:") and int(line.split()[1], 16) for line in lines)

    def suspend(self) -> None:
        """Stop its Python process in its tracks; its p2pd runs on, as with a hung interpreter."""
        self.signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let a suspended process go on."""
        self.signal(signal.SIGCONT)

    def wait(self, timeout_s: float = 30.0) -> int:
        """Wait for the end; returns the exit status."""
        wait_for(
            lambda: self.status is not None,
            timeout_s,
            f"end of {self!r}; its log ends with\n{self.log[-2000:]}",
        )
        status = self.status
        assert status is not None
        return status
