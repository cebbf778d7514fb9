"""The relay as a process of its own, so that its timers never wait for the client's Python.

Run as `python -m swarm.bench.relay_process DELAY_S ROUTES`. It first writes its ports as a JSON list. Then it answers
each line on its standard input: `[I, PORT]` leads route I to that port, anything else just asks; the answer is a JSON
list of `[bytes forth, bytes back]` for each route. It ends with its standard input, whatever ended the other side.
"""

from __future__ import annotations

import asyncio
import json
import selectors
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import swarm
from swarm.bench.relay import Relay
from swarm.core.errors import NodeError

HOST = "127.0.0.1"
_PACKAGE_ROOT = Path(swarm.__file__).parent.parent


class RelayProcess:
    """Starts the process; use it as a context manager. `ports` are those of its routes."""

    def __init__(self, delay_s: float, routes: int) -> None:
        command = [sys.executable, "-m", "swarm.bench.relay_process", str(delay_s), str(routes)]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=_PACKAGE_ROOT, start_new_session=True
        )
        self.ports: list[int] = self._read()

    @property
    def status(self) -> int | None:
        """Its exit status, None while it runs."""
        return self._process.poll()

    def lead(self, route: int, port: int) -> None:
        """Lead a route to a port of this machine."""
        self._ask([route, port])

    def counts(self) -> list[tuple[int, int]]:
        """Bytes so far to and from the target of each route."""
        return [(forth, back) for forth, back in self._ask(None)]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        self._process.communicate()  # the end of its input is its end

    def _ask(self, question: Any) -> Any:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(question).encode() + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError as exc:
            raise NodeError("the relay that delays this benchmark's traffic ended by itself") from exc
        return self._read()

    def _read(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise NodeError("the relay that delays this benchmark's traffic ended by itself")
        return json.loads(line)


async def _serve(delay_s: float, routes: int) -> None:
    relay = Relay(delay_s, HOST)
    for _ in range(routes):
        await relay.open()
    _say([route.port for route in relay.routes])
    lines = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    while line := await lines.readline():
        if asked := json.loads(line):
            relay.routes[asked[0]].target = (HOST, asked[1])
        _say([(route.forth, route.back) for route in relay.routes])
    await relay.close()


def _say(answer: Any) -> None:
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


def _precise_loop() -> asyncio.AbstractEventLoop:
    """epoll and uvloop wait in whole milliseconds, which 100 steps of 4 links would feel; select does not."""
    return asyncio.SelectorEventLoop(selectors.SelectSelector())


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=_precise_loop) as runner:
        runner.run(_serve(float(sys.argv[1]), int(sys.argv[2])))
