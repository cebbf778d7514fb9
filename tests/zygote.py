"""A process that has everything imported and forks one real `swarm` command per request.

Importing torch, transformers and hivemind costs about four seconds of processor time. The zygote pays it once per test
session; each peer is then a fork of it: its own process, session and process group, with the command line's own
`main()`, its own p2pd and its own exit status. Killing, stopping and signalling it works as for any other process.

    test session -> zygote    one JSON line per request: {"argv", "stdin", "stdout", "stderr", "env", "folder"}
    zygote -> test session    {"ready": true} once, {"pid": n} per request, {"exited": pid, "status": n} per death

Only Linux: forks are tied to the zygote's life by PR_SET_PDEATHSIG; the zygote ends at the end of its socket, whatever
ended the test session. Run as `python -m tests.zygote SOCKET_FD MODULE [bare]`: the forks call `main()` of MODULE; a
bare zygote imports nothing beforehand.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import importlib
import json
import os
import pkgutil
import selectors
import signal
import socket
import sys
from pathlib import Path
from typing import Any

HEAVY = (
    "torch",
    "transformers.models.llama.modeling_llama",
    "transformers.generation.utils",
    "hivemind",
    "netaddr",  # this and the next are imported when the first address is read
    "cid",
    "uvloop",
)
PACKAGES = (
    "swarm.routing",
    "swarm.security",
    "swarm.wire",
    "swarm.shards",
    "swarm.client",
    "swarm.peer",
    "swarm.gateway",
    "swarm.cli",
)
_PR_SET_PDEATHSIG = 1


def preload() -> None:
    """Import what a peer needs. A module that fails to import fails again, with its traceback, in the fork's log."""
    for name in HEAVY:
        importlib.import_module(name)
    for package in PACKAGES:
        with contextlib.suppress(Exception):
            path = importlib.import_module(package).__path__
            for module in pkgutil.iter_modules(path, f"{package}."):
                with contextlib.suppress(Exception):
                    importlib.import_module(module.name)
    threads = [
        Path("/proc/self/task", task, "comm").read_text().strip() for task in os.listdir("/proc/self/task")
    ]
    gc.freeze()  # keeps the collector from touching, and so copying, what all forks share
    if len(threads) != 1:
        raise RuntimeError(f"imports started threads, so that forking is not safe: {threads}")


def become(request: dict[str, Any], parent: int) -> list[str]:
    """Turn the fresh fork into the process of `request`; returns the arguments of its command."""
    os.setsid()
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # the zygote died before the line above
        os._exit(1)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGCHLD):
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    modes = (
        (request["stdin"], os.O_RDONLY),
        (request["stdout"], os.O_WRONLY),
        (request["stderr"], os.O_WRONLY),
    )
    for target, (path, mode) in enumerate(modes):
        opened = os.open(path, mode | os.O_CREAT | (os.O_APPEND if mode == os.O_WRONLY else 0), 0o600)
        os.dup2(opened, target)
        os.close(opened)
    os.environ.update(request["env"])
    os.chdir(request["folder"])
    argv: list[str] = request["argv"]
    return argv


class Forker:
    """Serves requests until the other end of `channel` is gone; in a fork, `run` returns the command's arguments."""

    def __init__(self, channel: socket.socket) -> None:
        self._channel = channel
        self._children: set[int] = set()
        self._buffer = b""
        self._wake_read, self._wake_write = os.pipe()
        os.set_blocking(self._wake_write, False)
        signal.set_wakeup_fd(self._wake_write)
        signal.signal(signal.SIGCHLD, lambda *_: None)

    def run(self) -> list[str] | None:
        """The arguments of a fork's command, or None when the test session ended."""
        self._tell({"ready": True})
        with selectors.DefaultSelector() as selector:
            selector.register(self._channel, selectors.EVENT_READ)
            selector.register(self._wake_read, selectors.EVENT_READ)
            while True:
                ready = {key.fd for key, _ in selector.select()}
                if self._wake_read in ready:
                    os.read(self._wake_read, 4096)
                    self._reap()
                if self._channel.fileno() in ready:
                    data = self._channel.recv(65536)
                    if not data:
                        self._kill_all()
                        return None
                    self._buffer += data
                while b"\n" in self._buffer:
                    line, self._buffer = self._buffer.split(b"\n", 1)
                    argv = self._fork(json.loads(line))
                    if argv is not None:
                        return argv

    def _fork(self, request: dict[str, Any]) -> list[str] | None:
        parent = os.getpid()
        pid = os.fork()
        if pid == 0:
            signal.set_wakeup_fd(-1)
            for fd in (self._wake_read, self._wake_write):
                os.close(fd)
            self._channel.close()
            return become(request, parent)
        self._children.add(pid)
        self._tell({"pid": pid})
        return None

    def _reap(self) -> None:
        for pid in list(self._children):
            done, status = os.waitpid(pid, os.WNOHANG)
            if done:
                self._children.discard(pid)
                self._tell({"exited": pid, "status": os.waitstatus_to_exitcode(status)})

    def _kill_all(self) -> None:
        for pid in self._children:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(pid, signal.SIGKILL)

    def _tell(self, message: dict[str, Any]) -> None:
        with contextlib.suppress(OSError):  # the test session has gone; the next read ends the loop
            self._channel.sendall(json.dumps(message).encode() + b"\n")


def run_command(module: str, argv: list[str]) -> int:
    """Run `module.main()` in this fork as a console script would."""
    sys.argv = ["swarm", *argv]
    sys.stdin = open(0, closefd=False)  # noqa: SIM115 - as long as the process
    sys.stdout = open(1, "w", closefd=False, buffering=1)  # noqa: SIM115
    sys.stderr = open(2, "w", closefd=False, buffering=1)  # noqa: SIM115
    status = importlib.import_module(module).main()
    return status if isinstance(status, int) else 0


if __name__ == "__main__":
    fd, command_module, *bare = sys.argv[1:]
    if not bare:
        preload()
    arguments = Forker(socket.socket(fileno=int(fd))).run()
    sys.exit(0 if arguments is None else run_command(command_module, arguments))
