"""The port on which a node listens: p2pd would share one silently, and two nodes would be mixed up."""

from __future__ import annotations

import asyncio
import errno
import socket

from swarm.core.errors import NodeError
from swarm.wire.address import parse_host

_WAIT_S = 2.0
_POLL_S = 0.05


async def wait_for_port(host: str, port: int) -> None:
    """Make sure that the port is free; after a `kill -9` the old p2pd may hold it for a moment longer.

    Raises:
        NodeError: if it is still in use after that.
    """
    try:
        async with asyncio.timeout(_WAIT_S):
            await _until_free(host, port)
    except TimeoutError:
        check_port_free(host, port)


async def _until_free(host: str, port: int) -> None:
    while True:
        try:
            return check_port_free(host, port)
        except NodeError:
            await asyncio.sleep(_POLL_S)


def check_port_free(host: str, port: int) -> None:
    """Make sure that nobody listens on the port: p2pd would share it silently, and the two would be mixed up.

    SO_REUSEADDR lets connections of the past (TIME_WAIT) not count; a listening socket still does.

    Raises:
        NodeError: if the port is taken, or cannot be bound at all.
    """
    ip = parse_host(host)
    family = socket.AF_INET6 if ip.version == 6 else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((str(ip), port))
            probe.listen(1)
        except OSError as exc:
            if exc.errno == errno.EADDRINUSE:
                raise NodeError(
                    f"port {port} is already in use: choose another --port or stop the program that listens on it"
                ) from exc
            raise NodeError(f"cannot listen on {host} port {port}: {exc.strerror or exc}") from exc
