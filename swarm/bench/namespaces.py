"""Network namespaces, one for each node, joined in a star by a router that delays with `tc netem`.

    node 0 --- veth --- router --- veth --- node 1        node i is 10.213.i.2, its side of the router 10.213.i.1

Every node delays what it sends, so that any packet between two nodes is delayed once. Linux only, as root. The
namespaces have no way out: nothing but these nodes can be reached from them.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Self

import psutil

from swarm.bench.local_swarm import Place, undisturbed
from swarm.core.errors import NodeError

_CLONE_NEWNET = 0x40000000
_NETNS = Path("/run/netns")
_LIMIT_PACKETS = 1_000_000
_STEM = "swarm-bench-"  # followed by the process that made it


def why_not() -> str | None:
    """Why namespaces with netem cannot be made here; None if they can. Tries it on a namespace of its own."""
    if not hasattr(os, "geteuid") or os.geteuid() != 0:
        return "not run as root"
    if missing := [tool for tool in ("ip", "tc") if shutil.which(tool) is None]:
        return f"no {' and no '.join(missing)} command (iproute2)"
    name = f"{_STEM}{os.getpid()}-probe"
    try:
        _run("ip", "netns", "add", name)
        _run("ip", "netns", "exec", name, "tc", "qdisc", "add", "dev", "lo", "root", "netem", "delay", "1ms")
    except NodeError:
        return "this kernel has no tc netem"
    finally:
        _forget(name)
    return None


class Star:
    """Makes the namespaces of `nodes` nodes, and removes them at the end of the context. Without a delay, no netem."""

    def __init__(self, nodes: int, delay_s: float) -> None:
        stem = f"{_STEM}{os.getpid()}"
        self._router = f"{stem}-router"
        self._nodes = [f"{stem}-{i}" for i in range(nodes)]
        self._delay_s = delay_s

    def place(self, node: int) -> Place:
        """Where a peer runs as this node."""
        return Place(f"10.213.{node}.2", ("ip", "netns", "exec", self._nodes[node]))

    @contextmanager
    def inside(self, node: int) -> Iterator[None]:
        """This thread is in the node's namespace, and so are, for good, threads and processes that it starts."""
        with Path("/proc/thread-self/ns/net").open("rb") as home:
            with (_NETNS / self._nodes[node]).open("rb") as namespace:
                _enter(namespace.fileno())
            try:
                yield
            finally:
                _enter(home.fileno())

    def __enter__(self) -> Self:
        _remove_strays()
        try:
            for name in (self._router, *self._nodes):
                _run("ip", "netns", "add", name)
                _run("ip", "-n", name, "link", "set", "lo", "up")
            _run("ip", "netns", "exec", self._router, "sysctl", "-qw", "net.ipv4.ip_forward=1")
            for i, name in enumerate(self._nodes):
                self._join(i, name)
        except BaseException:
            self._remove()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        self._remove()

    def _join(self, i: int, name: str) -> None:
        """The wire between a node and the router, and what the node knows of it."""
        ours, theirs, subnet = "wire", f"wire{i}", f"10.213.{i}"
        _run(
            "ip",
            "-n",
            name,
            "link",
            "add",
            ours,
            "type",
            "veth",
            "peer",
            "name",
            theirs,
            "netns",
            self._router,
        )
        for namespace, card, address in ((name, ours, f"{subnet}.2"), (self._router, theirs, f"{subnet}.1")):
            _run("ip", "-n", namespace, "addr", "add", f"{address}/24", "dev", card)
            _run("ip", "-n", namespace, "link", "set", card, "up")
        _run("ip", "-n", name, "route", "add", "10.213.0.0/16", "via", f"{subnet}.1")
        if self._delay_s:
            self._delay(name, ours)

    def _delay(self, name: str, card: str) -> None:
        delay, limit = f"{self._delay_s * 1e6:.0f}us", str(_LIMIT_PACKETS)
        _run(
            "ip", "netns", "exec", name,
            "tc", "qdisc", "add", "dev", card, "root", "netem", "delay", delay, "limit", limit,
        )  # fmt: skip

    def _remove(self) -> None:
        with undisturbed():
            for name in (*self._nodes, self._router):
                _forget(name)


def _run(*command: str) -> None:
    try:
        subprocess.run(command, check=True, capture_output=True, text=True)
    except subprocess.CalledProcessError as exc:
        raise NodeError(f"{' '.join(command)}: {' '.join(exc.stderr.split())}") from exc


def _forget(name: str) -> None:
    with suppress(NodeError):  # it was never made
        _run("ip", "netns", "del", name)


def _remove_strays() -> None:
    """Remove what a benchmark left that was killed without a chance to clean up."""
    for path in _NETNS.glob(f"{_STEM}*"):
        owner = path.name.removeprefix(_STEM).partition("-")[0]
        if owner.isdigit() and not psutil.pid_exists(int(owner)):
            _forget(path.name)


def _enter(namespace: int) -> None:
    if ctypes.CDLL(None, use_errno=True).setns(namespace, _CLONE_NEWNET) != 0:
        raise NodeError(f"cannot enter a network namespace: {os.strerror(ctypes.get_errno())}")
