"""The relay: everything later by the delay, in order, counted, and ends passed on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from swarm.bench.relay import DelayLine, Relay
from swarm.bench.relay_process import RelayProcess
from tests.virtual_time import VirtualLoop

HOST = "127.0.0.1"


def test_pieces_come_out_in_order_each_after_the_delay() -> None:
    found: list[tuple[float, bytes]] = []

    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        begun = loop.time()
        line = DelayLine(0.025, lambda data: found.append((round(loop.time() - begun, 6), data)))
        line.put(b"a")
        line.put(b"b")
        await asyncio.sleep(0.010)
        line.put(b"cd")
        assert line.under_way == 4
        await asyncio.sleep(1.0)
        assert line.under_way == 0
        line.put(b"e")
        await asyncio.sleep(1.0)

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runner.run(scenario())
    assert found == [(0.025, b"a"), (0.025, b"b"), (0.035, b"cd"), (1.035, b"e")]


def test_what_is_under_way_may_be_forgotten() -> None:
    found: list[bytes] = []

    async def scenario() -> None:
        line = DelayLine(0.025, found.append)
        line.put(b"a")
        line.cancel()
        await asyncio.sleep(1.0)

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runner.run(scenario())
    assert found == []


@asynccontextmanager
async def echo() -> AsyncIterator[int]:
    """The port of a server that says everything twice, and ends when its client does."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(1 << 16):
            writer.write(data * 2)
        writer.close()

    async with await asyncio.start_server(serve, HOST, 0) as server:
        yield server.sockets[0].getsockname()[1]


def test_both_directions_are_carried_and_counted() -> None:
    async def scenario() -> tuple[int, int]:
        relay = Relay(0.001)
        async with asyncio.timeout(30), echo() as port:
            route = await relay.open()
            route.target = (HOST, port)
            reader, writer = await asyncio.open_connection(HOST, route.port)
            writer.write(b"x" * 100_000)
            assert await reader.readexactly(200_000) == b"x" * 200_000
            writer.close()
            await relay.close()
            return route.forth, route.back

    assert asyncio.run(scenario()) == (100_000, 200_000)


def test_the_end_of_one_side_ends_the_other() -> None:
    async def scenario() -> None:
        relay, ended = Relay(0.001), asyncio.Event()

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            assert await reader.read() == b"last words"
            writer.close()
            ended.set()

        async with asyncio.timeout(30), await asyncio.start_server(serve, HOST, 0) as server:
            route = await relay.open()
            route.target = (HOST, server.sockets[0].getsockname()[1])
            _, writer = await asyncio.open_connection(HOST, route.port)
            writer.write(b"last words")
            writer.close()
            await ended.wait()
            await relay.close()
        assert not relay.ends

    asyncio.run(scenario())


@pytest.mark.parametrize("leads_nowhere", [True, False])
def test_whoever_connects_is_turned_away_while_nothing_is_behind_the_route(leads_nowhere: bool) -> None:
    async def scenario() -> None:
        relay = Relay(0.001)
        async with asyncio.timeout(30):
            route = await relay.open()
            if not leads_nowhere:
                async with echo() as port:
                    route.target = (HOST, port)
            reader, _ = await asyncio.open_connection(HOST, route.port)
            assert await reader.read() == b""
            await relay.close()

    asyncio.run(scenario())


def test_the_relay_process_tells_its_ports_and_counts_and_ends_with_us() -> None:
    async def scenario(relay: RelayProcess) -> None:
        async with asyncio.timeout(30), echo() as port:
            relay.lead(1, port)
            reader, writer = await asyncio.open_connection(HOST, relay.ports[1])
            writer.write(b"hello")
            assert await reader.readexactly(10) == b"hellohello"
            writer.close()

    with RelayProcess(0.001, routes=2) as relay:
        asyncio.run(scenario(relay))
        assert relay.counts() == [(0, 0), (5, 10)]
    assert relay.status == 0
