"""A TCP relay that delays: every byte goes on `delay_s` after it came, in either direction, at any rate.

What comes is read at once, kept with the time at which it is due, and written then: a delay line, not a throttle, so
that much can be under way. What it lacks of a long link: packets, loss, and a congestion window that grows with the
round trip; those are between the relay and each end.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

MAX_UNDER_WAY = 1 << 28  # bytes in one direction; beyond that the sender waits, as with a full window


class DelayLine:
    """Hands on pieces in their order, each `delay_s` after it came. Belongs to the running event loop."""

    def __init__(self, delay_s: float, deliver: Callable[[bytes], None]) -> None:
        self._delay_s = delay_s
        self._deliver = deliver
        self._loop = asyncio.get_running_loop()
        self._pieces: deque[tuple[float, bytes]] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self.under_way = 0

    def put(self, data: bytes) -> None:
        """Something has come."""
        self._pieces.append((self._loop.time() + self._delay_s, data))
        self.under_way += len(data)
        self._wait()

    def cancel(self) -> None:
        """Forget what is under way."""
        self._pieces.clear()
        self.under_way = 0
        if self._timer is not None:
            self._timer.cancel()

    def _wait(self) -> None:
        if self._timer is None and self._pieces:
            self._timer = self._loop.call_at(self._pieces[0][0], self._hand_on)

    def _hand_on(self) -> None:
        self._timer = None
        now = self._loop.time()
        while self._pieces and self._pieces[0][0] <= now:
            _, data = self._pieces.popleft()
            self.under_way -= len(data)
            self._deliver(data)
        self._wait()


@dataclass(slots=True)
class Route:
    """One listening port and where it leads; `target` None: nowhere yet, whoever connects is turned away.

    Attributes:
        forth: bytes that were on their way to the target.
        back: bytes that came from it.
    """

    port: int
    target: tuple[str, int] | None = None
    forth: int = 0
    back: int = 0

    def count_forth(self, amount: int) -> None:
        self.forth += amount

    def count_back(self, amount: int) -> None:
        self.back += amount


class _End(asyncio.Protocol):
    """One of the two ends of a relayed connection: what comes from it goes, delayed, to the other one."""

    def __init__(self, relay: Relay, count: Callable[[int], None]) -> None:
        self.other: _End | None = None
        self._relay = relay
        self._count = count
        self._line = DelayLine(relay.delay_s, self._pass_on)
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._relay.ends.add(self)

    def data_received(self, data: bytes) -> None:
        self._count(len(data))
        self._line.put(data)
        if self._transport is not None and self._line.under_way > MAX_UNDER_WAY:
            self._transport.pause_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        """The other end learns it as late as everything else."""
        self._relay.ends.discard(self)
        self._line.put(b"")

    def hold(self) -> None:
        """Take nothing more until `go`."""
        if self._transport is not None:
            self._transport.pause_reading()

    def go(self) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        self._line.cancel()
        if self._transport is not None:
            self._transport.abort()

    def _pass_on(self, data: bytes) -> None:
        """An empty piece is the end."""
        if self.other is None or self.other._transport is None:
            return
        if data:
            self.other._transport.write(data)
        else:
            self.other.close()
        if self._line.under_way <= MAX_UNDER_WAY:
            self.go()


class Relay:
    """Listens on a port for each route, and forwards connections with a delay."""

    def __init__(self, delay_s: float, host: str = "127.0.0.1") -> None:
        self.delay_s = delay_s
        self.routes: list[Route] = []
        self.ends: set[_End] = set()
        self._host = host
        self._servers: list[asyncio.Server] = []
        self._dials: set[asyncio.Task[None]] = set()

    async def open(self) -> Route:
        """A new route, on a free port."""
        route = Route(0)
        loop = asyncio.get_running_loop()
        server = await loop.create_server(lambda: _Near(self, route), self._host, 0)
        route.port = server.sockets[0].getsockname()[1]
        self._servers.append(server)
        self.routes.append(route)
        return route

    async def close(self) -> None:
        """Stop listening and end all connections."""
        for server in self._servers:
            server.close()
        for dial in self._dials:
            dial.cancel()
        await asyncio.gather(*self._dials, return_exceptions=True)
        for end in list(self.ends):
            end.abort()

    def connect(self, near: _End, route: Route) -> None:
        """Dial the target for a connection that has come in."""
        dial = asyncio.get_running_loop().create_task(self._dial(near, route))
        self._dials.add(dial)
        dial.add_done_callback(self._dials.discard)

    async def _dial(self, near: _End, route: Route) -> None:
        if route.target is None:
            near.close()
            return
        far = _End(self, route.count_back)
        near.other, far.other = far, near
        try:
            await asyncio.get_running_loop().create_connection(lambda: far, *route.target)
        except OSError:
            near.close()
            return
        if near in self.ends:
            near.go()
        else:  # it left while its other end was dialled
            far.abort()


class _Near(_End):
    """The end that dialled the relay: the other one is dialled for it."""

    def __init__(self, relay: Relay, route: Route) -> None:
        super().__init__(relay, route.count_forth)
        self._route = route

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.hold()
        self._relay.connect(self, self._route)
