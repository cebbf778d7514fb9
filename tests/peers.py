"""Swarms of real peers on 127.0.0.1, as processes of a test.

    with swarm_factory() as swarm:
        swarm.bootstrap()
        first = swarm.serve("demo", "0:4")
        swarm.serve("demo", "4:8")
        ...
        first.kill()

The end of the `with` block stops every process and asserts that none, no p2pd and no socket or temporary file is left.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psutil

from swarm.core.span import Span
from tests.leftovers import SWARM, describe, is_alive, marked_processes
from tests.processes import COMPILED, CommandProcess, Finished, Zygote
from tests.waiting import wait_for

READY_DEADLINE_S = 120.0
POLITE_DEADLINE_S = 2.0
STOP_DEADLINE_S = 20.0
SETTLE_DEADLINE_S = 10.0


class PeerProcess(CommandProcess):
    """A `swarm serve` or `swarm bootstrap` that has written its ready file."""

    def __init__(self, zygote: Zygote, argv: list[str], folder: Path, name: str, env: dict[str, str]) -> None:
        super().__init__(zygote, argv, folder, name, env)
        self._ready: dict[str, Any] = {}

    def wait_ready(self, ready_file: Path, deadline_s: float) -> None:
        """Wait for the ready file.

        Raises:
            AssertionError: with the end of its log, if it ends before or the deadline passes.
        """

        def has_decided() -> bool:
            with contextlib.suppress(OSError, ValueError):  # not there, or not written to its end
                self._ready = json.loads(ready_file.read_text())
            return bool(self._ready) or self.status is not None

        with contextlib.suppress(AssertionError):
            wait_for(has_decided, deadline_s, "ready or ended")
        is_ready = bool(self._ready) and self.status is None
        assert is_ready, (
            f"not ready after up to {deadline_s:g} s: {self!r}; its log ends with\n{self.log[-4000:]}"
        )
        self.note_traces()

    @property
    def peer_id(self) -> str:
        return str(self._ready["peer_id"])

    @property
    def addresses(self) -> list[str]:
        """Multiaddrs to join it with."""
        return [str(address) for address in self._ready["addresses"]]

    @property
    def metrics(self) -> str:
        """URL of its page for Prometheus; it has one if it was started with `--metrics-port`."""
        return str(self._ready["metrics"])

    @property
    def span(self) -> Span | None:
        """Layers it serves; None for a bootstrap node."""
        span = self._ready["span"]
        if span is None:
            return None
        return Span.parse(span) if isinstance(span, str) else Span(*span)


@contextlib.contextmanager
def lone_swarm() -> Iterator[tuple[LocalSwarm, list[psutil.Process]]]:
    """A swarm outside of any test session, and a list that in the end holds the processes that outlived it."""
    left: list[psutil.Process] = []
    with tempfile.TemporaryDirectory() as folder:
        zygote = Zygote(Path(folder) / "log")
        try:
            with LocalSwarm(zygote) as swarm:
                yield swarm, left
        finally:
            left += zygote.close()


class LocalSwarm:
    """Owns the processes of one small swarm, in a temporary folder of their own."""

    def __init__(self, zygote: Zygote) -> None:
        self._zygote = zygote
        self._processes: list[CommandProcess] = []
        self._stopped = False
        self.folder = Path(tempfile.mkdtemp(prefix="layerswarm-test-"))
        self.temp_folder = self.folder / "tmp"
        self.temp_folder.mkdir()
        cache = self.folder / "swarm"
        cache.mkdir()
        (cache / "compiled").symlink_to(COMPILED)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._stopped:
            return
        self._stopped = True
        problems = self._stop_all()
        shutil.rmtree(self.folder, ignore_errors=True)
        assert error is not None or not problems, "the swarm left something behind:\n" + "\n".join(problems)

    @property
    def peers(self) -> list[PeerProcess]:
        """Bootstrap nodes and peers, in the order of their start, those that ended included."""
        return [process for process in self._processes if isinstance(process, PeerProcess)]

    @property
    def addresses(self) -> list[str]:
        """One address of each node that runs."""
        return [peer.addresses[0] for peer in self.peers if peer.status is None]

    def bootstrap(self, *options: str, peers: Sequence[str] | None = None) -> PeerProcess:
        """Start a DHT node without layers and wait until it is ready."""
        return self._start_node(["bootstrap"], peers, options, READY_DEADLINE_S)

    def serve(
        self,
        model: str | Path,
        layers: str = "auto",
        *options: str,
        peers: Sequence[str] | None = None,
        identity: Path | None = None,
        deadline_s: float = READY_DEADLINE_S,
    ) -> PeerProcess:
        """Start a peer and wait until it is ready.

        `peers` None joins the nodes that run. `identity` None makes a new one; give the same path to restart a peer.
        """
        command = ["serve", str(model), "--layers", layers]
        return self._start_node(command, peers, options, deadline_s, identity)

    def node(self, *argv: str) -> PeerProcess:
        """Start a node by its whole command line, which says whom it joins, and wait until it is ready."""
        return self._start_node(list(argv), (), (), READY_DEADLINE_S)

    def start(
        self, *argv: str, name: str = "command", env: dict[str, str] | None = None, stdin: bytes = b""
    ) -> CommandProcess:
        """Start any `swarm` command, without waiting."""
        process = CommandProcess(
            self._zygote, list(argv), self.folder, self._name(name), self._env(env), stdin
        )
        self._processes.append(process)
        return process

    def run(
        self, *argv: str, env: dict[str, str] | None = None, stdin: bytes = b"", deadline_s: float = 60.0
    ) -> Finished:
        """Run any `swarm` command to its end."""
        process = self.start(*argv, env=env, stdin=stdin)
        status = process.wait(deadline_s)
        return Finished(
            status,
            process.stdout_path.read_text(errors="replace"),
            process.stderr_path.read_text(errors="replace"),
        )

    def _start_node(
        self,
        command: list[str],
        peers: Sequence[str] | None,
        options: Sequence[str],
        deadline_s: float,
        identity: Path | None = None,
    ) -> PeerProcess:
        name = self._name(command[0])
        ready_file = self.folder / f"{name}.json"
        identity = identity or self.folder / f"{name}.key"
        argv = [*command, "--host", "127.0.0.1", "--identity", str(identity), "--ready-file", str(ready_file)]
        for address in self.addresses if peers is None else peers:
            argv += ["--peers", address]
        process = PeerProcess(self._zygote, [*argv, *options], self.folder, name, self._env(None))
        self._processes.append(process)
        process.wait_ready(ready_file, deadline_s)
        return process

    def _name(self, kind: str) -> str:
        return f"{len(self._processes)}-{kind}"

    def _env(self, env: dict[str, str] | None) -> dict[str, str]:
        home = {
            SWARM: self.folder.name,
            "TMPDIR": str(self.temp_folder),
            "HOME": str(self.folder),
            "XDG_CONFIG_HOME": str(self.folder),
            "XDG_CACHE_HOME": str(self.folder),
        }
        return home | (env or {})

    def _stop_all(self) -> list[str]:
        """Stop everything; returns what is wrong afterwards, one line each."""
        running = [process for process in self._processes if process.status is None]
        for process in running:
            process.resume()
            process.terminate()
        with contextlib.suppress(AssertionError):  # still busy: ask again, which means at once
            wait_for(lambda: all(p.status is not None for p in running), POLITE_DEADLINE_S, "all have left")
        for process in running:
            process.terminate()
        problems = list(self._force_ends(running))
        problems += self._leftovers()
        return problems

    def _force_ends(self, running: list[CommandProcess]) -> Iterator[str]:
        for process in running:
            try:
                process.wait(STOP_DEADLINE_S)
            except AssertionError as exc:
                process.kill()
                yield f"did not stop when asked to twice: {exc}"

    def _leftovers(self) -> list[str]:
        with contextlib.suppress(AssertionError):  # what is still there then is the finding
            wait_for(
                lambda: not (self._orphans() or self._left_files()), SETTLE_DEADLINE_S, "nothing is left"
            )
        orphans = self._orphans()
        found = [describe(process) for process in orphans]
        found += [f"file {path}" for path in self._left_files()]
        for process in orphans:
            if is_alive(process):
                process.kill()
        return found

    def _orphans(self) -> list[psutil.Process]:
        noted = [process for p in self._processes for process in p.traces.alive()]
        return list({*noted, *marked_processes(SWARM, self.folder.name)})

    def _left_files(self) -> list[str]:
        noted = [path for p in self._processes for path in p.traces.left_files()]
        return sorted({*noted, *(str(path) for path in self.temp_folder.iterdir())})
