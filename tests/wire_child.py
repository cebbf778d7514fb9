"""A node in a process of its own, for tests that kill it: `python -m tests.wire_child PORT [BOOTSTRAP]`.

Prints its address once it runs, and answers every step with its own tensors.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import psutil
import uvloop

from swarm.core.config import NodeConfig
from swarm.security.identity import Identity
from swarm.wire.link import Link
from swarm.wire.message import Message
from swarm.wire.node import Node
from swarm.wire.step_messages import Output, StepMessage


@dataclass(frozen=True)
class Child:
    """A running child, its address, and all that it started."""

    process: subprocess.Popen[str]
    address: str
    descendants: tuple[psutil.Process, ...]

    @property
    def peer_id(self) -> str:
        return self.address.rpartition("/")[2]

    @property
    def p2pd(self) -> psutil.Process:
        [found] = [process for process in self.descendants if "p2pd" in process.cmdline()[0]]
        return found


@contextmanager
def child(port: int = 0) -> Iterator[Child]:
    """Start a child; it is killed at the end."""
    command = [sys.executable, "-m", "tests.wire_child", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)
    try:
        assert process.stdout is not None
        address = process.stdout.readline().strip()
        assert address, "the child did not start"
        yield Child(process, address, tuple(psutil.Process(process.pid).children(recursive=True)))
    finally:
        process.kill()
        process.communicate()


async def echo(link: Link, message: Message, payload: memoryview) -> None:
    """Send a step's tensors back."""
    if isinstance(message, StepMessage):
        await link.send(
            Output(
                session=message.session, number=message.number, start=message.start, tensors=message.tensors
            ),
            [payload],
        )


async def main() -> None:
    config = NodeConfig(host="127.0.0.1", port=int(sys.argv[1]), peers=tuple(sys.argv[2:]))
    node = await Node.start(config, Identity.ephemeral(), handler=echo)
    print(node.addresses[0], flush=True)
    await node.wait_failed()


if __name__ == "__main__":
    uvloop.run(main())
