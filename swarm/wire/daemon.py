"""The p2pd process: libp2p in Go, started by us, in a session of its own, and watched.

hivemind can start p2pd itself, but then a Ctrl-C in the terminal reaches p2pd before our node had a chance to drain,
its unix sockets outlive a `kill -9`, and its death goes unnoticed. So it is started here and handed to hivemind's
public `P2P.replicate`. p2pd ends by itself when its last persistent control connection closes, which the kernel does
for us when this process dies in whatever way; until the first such connection, its idle timeout does.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from swarm.core.errors import NodeError
from swarm.wire.hivemind_parts import P2P, P2PD, Multiaddr, P2PDaemonError
from swarm.wire.socket_folder import SocketFolder

logger = logging.getLogger(__name__)

_IDLE_TIMEOUT_S = 15
_END_S = 1.0
_READY = b"Peer ID:"


@dataclass(frozen=True, slots=True)
class DaemonOptions:
    """How p2pd is started. `listen` None: not at all; `bootstrap` addresses end with their peer id."""

    identity_file: Path
    listen: str | None
    announce: tuple[str, ...] = ()
    bootstrap: tuple[str, ...] = ()
    traverse_nat: bool = False


class Daemon:
    """A running p2pd and hivemind's connection to it (`p2p`)."""

    def __init__(self, folder: SocketFolder) -> None:
        self._folder = folder
        self._process: asyncio.subprocess.Process | None = None
        self._output: asyncio.Task[None] | None = None
        self._last_line = ""
        self._ready = asyncio.get_running_loop().create_future()
        self.p2p: Any = None

    @classmethod
    async def start(cls, options: DaemonOptions, folder: SocketFolder, timeout_s: float) -> Daemon:
        """Start p2pd and connect to it.

        Raises:
            NodeError: if it does not start, or reaches none of the bootstrap addresses.
        """
        daemon = cls(folder)
        try:
            async with asyncio.timeout(timeout_s):
                await daemon._launch(options)
                await daemon._ready
                await daemon._attach()
        except TimeoutError as exc:
            await daemon.stop()
            raise _start_error(options, f"no answer within {timeout_s:g} s") from exc
        except BaseException:
            await daemon.stop()
            raise
        return daemon

    async def _launch(self, options: DaemonOptions) -> None:
        self._process = await asyncio.create_subprocess_exec(
            str(P2PD),
            *_arguments(options, self._control_address),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            start_new_session=True,
        )
        self._output = asyncio.create_task(self._read_output(self._process, options))

    @property
    def _control_address(self) -> str:
        return f"/unix{self._folder.path}/p2pd.sock"

    async def _read_output(self, process: asyncio.subprocess.Process, options: DaemonOptions) -> None:
        """Wait for readiness, then keep the pipe empty until p2pd ends."""
        assert process.stdout is not None
        while line := await process.stdout.readline():
            self._last_line = line.decode(errors="replace").strip()
            logger.debug("p2pd: %s", self._last_line)
            if line.startswith(_READY) and not self._ready.done():
                self._ready.set_result(None)
        if not self._ready.done():
            self._ready.set_exception(_start_error(options, self._last_line))

    async def _attach(self) -> None:
        class _FolderP2P(P2P):  # type: ignore[misc]
            _UNIX_SOCKET_PREFIX = f"/unix{self._folder.path}/"

        self.p2p = await _FolderP2P.replicate(Multiaddr(self._control_address))

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    async def wait_ended(self) -> str:
        """Wait until p2pd has ended; its last words."""
        assert self._process is not None
        code = await self._process.wait()
        words = "" if self._last_line.startswith("/") else self._last_line  # at start it prints its addresses
        return f"exit status {code}" + (f", {words}" if words else "")

    def fail_calls(self) -> None:
        """End all calls that wait for an answer of p2pd: hivemind would let them wait for ever."""
        if self.p2p is not None:
            _fail_calls(self.p2p._client.control)

    async def stop(self) -> None:
        """Disconnect and end p2pd; idempotent."""
        if self.p2p is not None:
            await _shut(self.p2p)
            self.p2p = None
        if self._process is not None and self._process.returncode is None:
            await self._end(self._process)
        if self._output is not None:
            await self._output
        if not self._ready.done():
            self._ready.cancel()

    async def _end(self, process: asyncio.subprocess.Process) -> None:
        """Let p2pd end by itself, as it does without connections; then make it."""
        for signal_number in (signal.SIGTERM, signal.SIGKILL):
            try:
                async with asyncio.timeout(_END_S):
                    await process.wait()
                return
            except TimeoutError:
                # not process.terminate(): its poll() may reap the process under asyncio's feet
                with suppress(ProcessLookupError):
                    os.kill(process.pid, signal_number)
        await process.wait()


def daemon_errors() -> tuple[type[Exception], ...]:
    """What hivemind raises when p2pd refuses something, or ends in the middle of it."""
    return P2PDaemonError, OSError, EOFError


async def _shut(p2p: Any) -> None:
    """hivemind cancels its tasks without waiting for them; wait, so that none outlives the node."""
    control = p2p._client.control
    tasks = [p2p._listen_task, control._read_task, control._write_task, *control._handler_tasks.values()]
    await p2p.shutdown()
    _fail_calls(control)
    for task in control._handler_tasks.values():
        task.cancel()
    await asyncio.gather(*(task for task in tasks if task is not None), return_exceptions=True)


def _fail_calls(control: Any) -> None:
    for answer in control._pending_calls.values():
        if not answer.done():
            answer.set_exception(P2PDaemonError("p2pd ended"))


def _arguments(options: DaemonOptions, control: str) -> list[str]:
    nat = int(options.traverse_nat)
    arguments = [
        f"-listen={control}",
        f"-id={options.identity_file}",
        f"-idleTimeout={_IDLE_TIMEOUT_S}s",
        "-tls=1",
        "-connManager=1",
        "-dhtServer" if options.listen else "-dhtClient",
        f"-natPortMap={nat}",
        f"-autonat={nat}",
        f"-relay={nat}",
        "-autoRelay=0",
        "-relayHopLimit=0",
        f"-b={int(bool(options.bootstrap))}",
    ]
    arguments.append(f"-hostAddrs={options.listen}" if options.listen else "-noListenAddrs")
    if options.announce:
        arguments.append(f"-announceAddrs={_joined(options.announce)}")
    if options.bootstrap:
        arguments.append(f"-bootstrapPeers={_joined(options.bootstrap)}")
    return arguments


def _joined(addresses: Sequence[str]) -> str:
    return ",".join(addresses)


def _start_error(options: DaemonOptions, words: str) -> NodeError:
    if options.bootstrap and ("bootstrap" in words or "within" in words):
        return NodeError(
            f"cannot reach any of the peers given by --peers: {', '.join(options.bootstrap)}; "
            "check that they run and that a firewall does not block them"
        )
    return NodeError(f"p2pd does not start: {words or 'it ended without a word'}")
