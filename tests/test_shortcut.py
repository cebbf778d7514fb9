"""Direct connections: offered to one peer, used once, and never needed."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from swarm.core.config import NodeConfig
from swarm.core.errors import NodeError, PeerIncompatible
from swarm.security.identity import Identity
from swarm.wire.frames import Frame, FrameDecoder, encode
from swarm.wire.messages import Hello, Shortcut
from swarm.wire.node import Node
from swarm.wire.sealed import SealedConnection
from swarm.wire.shortcut import ShortcutListener, dial_shortcut, read_shortcut
from swarm.wire.step_messages import Output, StepMessage
from swarm.wire.switchboard import SHORTCUT_STREAM
from tests.wire_child import echo
from tests.wire_nodes import SESSION, Inbox, float_meta, ignore, node, run

pytestmark = [pytest.mark.slow, pytest.mark.network]
HOSTS = ["127.0.0.1"]


class Arrivals:
    """Connections that a listener has handed over."""

    def __init__(self) -> None:
        self.found: asyncio.Queue[tuple[str, SealedConnection]] = asyncio.Queue()

    def __call__(self, peer_id: str, connection: SealedConnection) -> None:
        self.found.put_nowait((peer_id, connection))


@asynccontextmanager
async def listening() -> AsyncIterator[tuple[ShortcutListener, Arrivals]]:
    arrivals = Arrivals()
    listener = await ShortcutListener.start("127.0.0.1", 0, arrivals)
    try:
        yield listener, arrivals
    finally:
        listener.close()


def offer_to(listener: ShortcutListener, peer_id: str) -> Shortcut:
    [frame] = FrameDecoder().feed(listener.offer(peer_id))
    assert isinstance(frame, Frame)
    assert isinstance(frame.message, Shortcut)
    return frame.message


def test_a_token_opens_one_connection_for_the_peer_it_was_made_for() -> None:
    async def scenario() -> None:
        async with listening() as (listener, arrivals):
            shortcut = offer_to(listener, "ada")
            first = await dial_shortcut(shortcut, HOSTS)
            assert first is not None
            peer_id, accepted = await arrivals.found.get()
            assert peer_id == "ada"
            reader, writer = await asyncio.open_connection("127.0.0.1", shortcut.port)
            writer.write(shortcut.token)
            assert await _ended(reader), "a second one with the same token"
            writer.close()
            first.close()
            accepted.close()

    run(scenario())


def test_whoever_shows_no_token_is_sent_away() -> None:
    async def scenario() -> None:
        async with listening() as (listener, arrivals):
            offer_to(listener, "ada")
            reader, writer = await asyncio.open_connection("127.0.0.1", listener.port)
            writer.write(b"x" * 64)
            assert await _ended(reader)
            assert arrivals.found.empty()
            writer.close()

    run(scenario())


def test_a_port_that_nobody_listens_on_is_no_shortcut() -> None:
    async def scenario() -> None:
        async with listening() as (listener, _):
            shortcut = offer_to(listener, "ada")
        assert await dial_shortcut(shortcut, HOSTS) is None

    run(scenario())


def test_what_is_no_shortcut_is_refused() -> None:
    async def scenario() -> None:
        reader = asyncio.StreamReader()
        reader.feed_data(encode(Hello(protocol=1)))
        with pytest.raises(PeerIncompatible, match="Hello instead of a shortcut"):
            await read_shortcut(reader)
        ended = asyncio.StreamReader()
        ended.feed_eof()
        with pytest.raises(EOFError):
            await read_shortcut(ended)

    run(scenario())


def test_links_are_direct_where_they_can_be_and_carry_the_same() -> None:
    async def scenario() -> None:
        inbox = Inbox()
        async with node(echo) as server, node(inbox, peers=server.addresses, listen=False) as client:
            link = await client.connect(server.peer_id)
            assert link.direct
            for count in (1, 700_000):
                step = StepMessage(session=SESSION, number=count, start=0, tensors=[float_meta(count)])
                await link.send(step, [bytes(4 * count)])
                _, message, payload = await inbox.next()
                assert isinstance(message, Output)
                assert (message.number, payload) == (count, bytes(4 * count))
            assert [link.direct for link in server.links()] == [True]

    run(scenario())


@pytest.mark.parametrize("lure", ["nobody", "somebody else"])
def test_without_a_way_past_libp2p_the_link_runs_through_it(lure: str) -> None:
    """Behind a router the port may lead nowhere, or to another machine's service."""

    async def scenario() -> None:
        with socket.socket() as held:
            held.bind(("127.0.0.1", 0))
            if lure == "somebody else":
                held.listen()
            port = held.getsockname()[1]

            async def mislead(info: object, reader: object, writer: asyncio.StreamWriter) -> None:
                writer.write(encode(Shortcut(port=port, token=bytes(16), key=bytes(32))))
                writer.close()

            async with node(ignore) as server, node(ignore, peers=server.addresses) as client:
                await server._daemon.p2p.remove_binary_stream_handler(SHORTCUT_STREAM)
                await server._daemon.p2p.add_binary_stream_handler(SHORTCUT_STREAM, mislead)
                link = await client.connect(server.peer_id)
                assert not link.direct

    run(scenario())


def test_a_node_that_offers_no_direct_links_is_reached_through_libp2p() -> None:
    async def scenario() -> None:
        config = NodeConfig(host="127.0.0.1", direct_port=None)
        server = await Node.start(config, Identity.ephemeral(), handler=ignore)
        try:
            async with node(ignore, peers=server.addresses) as client:
                assert not (await client.connect(server.peer_id)).direct
        finally:
            await server.stop()

    run(scenario())


def test_a_direct_port_in_use_is_named() -> None:
    async def scenario() -> None:
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            config = NodeConfig(host="127.0.0.1", direct_port=taken.getsockname()[1])
            with pytest.raises(NodeError, match="choose another --direct-port"):
                await Node.start(config, Identity.ephemeral(), handler=ignore)

    run(scenario())


async def _ended(reader: asyncio.StreamReader) -> bool:
    try:
        return not await reader.read(1)
    except ConnectionResetError:
        return True
