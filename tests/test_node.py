"""Nodes with real p2pd processes on loopback: dialling, versions, failures, and that nothing is left behind."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from swarm.core.config import NodeConfig
from swarm.core.errors import ConfigError, NodeError, PeerIncompatible, PeerTimeout, PeerUnreachable
from swarm.security.identity import Identity
from swarm.wire import socket_folder
from swarm.wire.bandwidth import LEAST_SAMPLES
from swarm.wire.node import Node
from swarm.wire.socket_folder import SocketFolder
from swarm.wire.step_messages import Output, StepMessage
from tests.waiting import wait_for
from tests.wire_child import Child, child, echo
from tests.wire_nodes import LOOPS, SESSION, Inbox, closed, float_meta, ignore, node, run, until

pytestmark = [pytest.mark.slow, pytest.mark.network]
both_loops = pytest.mark.parametrize("loop", LOOPS)
NOBODY = f"/ip4/127.0.0.1/tcp/9/p2p/{Identity(bytes(32)).peer_id}"


def own_children() -> list[psutil.Process]:
    """The processes that nodes of this process have started; not the zygote, nor the helper of multiprocessing."""
    return [process for process in psutil.Process().children() if _is_of_a_node(process)]


def _is_of_a_node(process: psutil.Process) -> bool:
    try:
        command = " ".join(process.cmdline())
    except psutil.ZombieProcess:  # a dead interpreter is of another test, which has not waited for it yet
        return not process.name().startswith("python")
    return "tests.zygote" not in command and "multiprocessing" not in command


def folders(pid: int) -> list[Path]:
    """The socket folders of a process."""
    return sorted(Path("/tmp").glob(f"swarm-node-{pid}-*"))


def own_folders() -> list[Path]:
    return folders(os.getpid())


def own_key_files() -> list[Path]:
    return [path for folder in own_folders() for path in folder.glob("identity*")]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@both_loops
def test_a_step_goes_to_a_node_and_its_output_comes_back(loop: str) -> None:
    async def scenario() -> None:
        inbox = Inbox()
        async with node(echo) as server, node(inbox, peers=server.addresses, listen=False) as client:
            assert client.addresses == []
            link = await client.connect(server.peer_id)
            for count in (1, *[300_000] * LEAST_SAMPLES):
                step = StepMessage(session=SESSION, number=count, start=0, tensors=[float_meta(count)])
                await link.send(step, [bytes(4 * count)])
                _, message, payload = await inbox.next()
                assert isinstance(message, Output)
                assert (message.number, payload) == (count, bytes(4 * count))
            await until(lambda: link.rtt_s, "a round-trip time")
            ends = (client.bandwidth, server.bandwidth)
            await until(lambda: all(e.upload.value and e.download.value for e in ends), "what links carry")

    run(scenario(), loop)


def test_a_link_serves_both_ends_and_all_callers() -> None:
    async def scenario() -> None:
        async with node() as one, node(peers=one.addresses) as two:
            links = await asyncio.gather(*(two.connect(one.peer_id, one.addresses) for _ in range(5)))
            assert len(set(map(id, links))) == 1
            await until(one.links, "the accepted link")
            back = await one.connect(two.peer_id)
            assert [back] == one.links()
            assert back.peer_id == two.peer_id
            await links[0].close()
            await closed(back)
            assert await one.connect(two.peer_id) is not back

    run(scenario())


def test_nodes_that_dial_each_other_at_once_agree_on_one_link() -> None:
    async def scenario() -> None:
        async with node() as one, node(peers=one.addresses) as two:
            await asyncio.gather(one.connect(two.peer_id), two.connect(one.peer_id))
            await until(lambda: len(one.links()) == len(two.links()), "both ends have greeted")
            ours, theirs = await one.connect(two.peer_id), await two.connect(one.peer_id)
            assert ours.dialled != theirs.dialled
            await ours.close()
            await closed(theirs)

    run(scenario())


def test_a_node_of_another_protocol_version_is_refused_and_says_why() -> None:
    async def scenario() -> None:
        async with node() as old, node(peers=old.addresses, protocol=2) as new:
            with pytest.raises(PeerIncompatible, match="version 1, this node speaks 2"):
                await new.connect(old.peer_id)
            with pytest.raises(PeerIncompatible, match="version 2, this node speaks 1"):
                await old.connect(new.peer_id)
            assert old.links() == new.links() == []

    run(scenario())


def test_what_cannot_be_dialled_is_unreachable() -> None:
    async def scenario() -> None:
        async with node() as one:
            stranger = Identity(bytes(32)).peer_id
            for peer_id in (stranger, one.peer_id, "nonsense", "Qm" + "1" * 44):
                with pytest.raises((PeerUnreachable, PeerTimeout)) as caught:
                    await one.connect(
                        peer_id, ["/ip4/127.0.0.1/tcp/9", "nonsense", "/ip4/1/tcp/x"], timeout_s=5
                    )
                assert caught.value.peer_id == peer_id
                assert "\n" not in str(caught.value)

    run(scenario())


def test_a_dial_under_way_ends_when_the_node_stops() -> None:
    async def scenario() -> None:
        held = asyncio.Event()

        async def say_nothing(
            info: object, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
        ) -> None:
            held.set()

        async with node() as mute, node(peers=mute.addresses) as one:
            await mute._daemon.p2p.remove_binary_stream_handler("swarm/shortcut")
            await mute._daemon.p2p.add_binary_stream_handler("swarm/shortcut", say_nothing)
            dial = asyncio.create_task(one.connect(mute.peer_id, timeout_s=30))
            await held.wait()
            await one.stop()
            with pytest.raises(PeerUnreachable):
                await dial

    run(scenario())


BAD_CONFIGS = {
    "--peers": NodeConfig(peers=("nonsense",)),
    "--peers needs": NodeConfig(peers=("/ip4/127.0.0.1/tcp/9",)),
    "--peers .*nobody": NodeConfig(peers=("/ip4/127.0.0.1/tcp/9/p2p/nobody",)),
    "--host": NodeConfig(host="example.org"),
    "--port": NodeConfig(port=70000),
    "--public-address": NodeConfig(public_addresses=("1.2.3.4:5",)),
}


@pytest.mark.parametrize(("named", "config"), BAD_CONFIGS.items(), ids=BAD_CONFIGS)
def test_malformed_settings_are_named(named: str, config: NodeConfig) -> None:
    async def scenario() -> None:
        with pytest.raises(ConfigError, match=named):
            await Node.start(config, Identity.ephemeral(), handler=ignore)
        assert own_folders() == []

    run(scenario())


def test_a_port_in_use_by_a_program_or_another_node_is_refused() -> None:
    async def scenario() -> None:
        with socket.socket() as other:
            other.bind(("127.0.0.1", 0))
            other.listen()
            port = other.getsockname()[1]
            with pytest.raises(NodeError, match=f"port {port} is already in use"):
                await Node.start(
                    NodeConfig(host="127.0.0.1", port=port), Identity.ephemeral(), handler=ignore
                )
        async with node(port=port):
            with pytest.raises(NodeError, match=f"port {port} is already in use"):
                await Node.start(NodeConfig(host="0.0.0.0", port=port), Identity.ephemeral(), handler=ignore)

    run(scenario())


@pytest.mark.parametrize("port", [0, 31330])
def test_an_address_of_another_machine_cannot_be_listened_on(port: int) -> None:
    async def scenario() -> None:
        config = NodeConfig(host="203.0.113.5", port=port)
        with pytest.raises(NodeError, match=r"cannot listen on 203\.0\.113\.5"):
            await Node.start(config, Identity.ephemeral(), handler=ignore)

    run(scenario())


def test_an_unreachable_bootstrap_is_named_and_leaves_nothing() -> None:
    async def scenario() -> None:
        with pytest.raises(NodeError, match="cannot reach any of the peers given by --peers") as caught:
            await Node.start(
                NodeConfig(host="127.0.0.1", peers=(NOBODY,)), Identity.ephemeral(), handler=ignore
            )
        assert NOBODY in str(caught.value)
        assert "\n" not in str(caught.value)
        assert own_folders() == []
        assert own_children() == []

    run(scenario())


def test_public_addresses_stand_first_and_those_of_the_machine_stay() -> None:
    async def scenario() -> None:
        port, public = free_port(), "/ip4/203.0.113.5/tcp/31330"
        config = NodeConfig(host="127.0.0.1", port=port, public_addresses=(public,))
        one = await Node.start(config, Identity.ephemeral(), handler=ignore)
        try:
            assert one.addresses == [
                f"{public}/p2p/{one.peer_id}",
                f"/ip4/127.0.0.1/tcp/{port}/p2p/{one.peer_id}",
            ]
            async with node(peers=one.addresses) as two:
                assert await two.connect(one.peer_id, one.addresses)
        finally:
            await one.stop()

    run(scenario())


def test_one_reachable_bootstrap_is_enough() -> None:
    async def scenario() -> None:
        async with node() as one, node(peers=[NOBODY, *one.addresses]) as two:
            assert await two.connect(one.peer_id)

    run(scenario())


@both_loops
def test_a_stopped_node_leaves_nothing(loop: str) -> None:
    async def scenario() -> None:
        async with node() as one, node(peers=one.addresses) as two:
            await two.connect(one.peer_id)
            assert len(own_folders()) == 2
            assert len(own_children()) == 4, "a p2pd and a watcher each"
            assert own_key_files() == [], "the key is deleted once p2pd has read it"
            await two.stop()
        assert own_folders() == []
        assert own_children() == []
        with pytest.raises(PeerUnreachable):
            await two.connect(one.peer_id)

    run(scenario(), loop)


def test_p2pd_stands_outside_our_session_so_that_ctrl_c_drains_first() -> None:
    async def scenario() -> None:
        async with node():
            for process in own_children():
                assert os.getsid(process.pid) == process.pid

    run(scenario())


@both_loops
def test_the_death_of_p2pd_fails_the_node_and_closes_its_links(loop: str) -> None:
    async def scenario() -> None:
        async with node() as one, node(peers=one.addresses) as two:
            link = await two.connect(one.peer_id)
            failure = asyncio.create_task(two.wait_failed())
            [p2pd] = [process for process in own_children() if "-b=1" in process.cmdline()]
            p2pd.kill()
            assert "p2pd" in str(await failure)
            assert link.closed
            await until(lambda: not one.links(), "the other end notices")
            with pytest.raises((PeerUnreachable, PeerTimeout)):
                await two.connect(one.peer_id, timeout_s=2)

    run(scenario(), loop)


def gone(process: psutil.Process) -> bool:
    return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


def assert_nothing_left(killed: Child) -> None:
    wait_for(lambda: all(map(gone, killed.descendants)), 5.0, f"the end of {killed.descendants}")
    wait_for(lambda: not folders(killed.process.pid), 5.0, "the removal of the socket folder")


@pytest.mark.parametrize("kill", [os.kill, os.killpg], ids=["process", "group"])
def test_after_a_kill_9_nothing_is_left(kill: Callable[[int, int], None]) -> None:
    with child() as victim:
        assert len(victim.descendants) == 2
        assert len(folders(victim.process.pid)) == 1
        kill(victim.process.pid, signal.SIGKILL)
        assert_nothing_left(victim)


def test_the_same_port_can_be_used_right_after_a_kill_9() -> None:
    with child(free_port()) as victim:
        port = int(victim.address.split("/")[4])

        async def scenario() -> None:
            victim.process.kill()
            async with node(port=port) as heir:
                assert heir.addresses[0].startswith(f"/ip4/127.0.0.1/tcp/{port}/p2p/")

        run(scenario())


def test_links_to_a_killed_process_end_at_once_and_to_a_stopped_one_after_silence() -> None:
    async def scenario(killed: Child, stopped: Child) -> None:
        async with node(listen=False, silence_s=2.0, peers=[killed.address]) as one:
            first = await one.connect(killed.peer_id)
            second = await one.connect(stopped.peer_id, [stopped.address])
            stopped.process.send_signal(signal.SIGSTOP)
            killed.process.kill()
            start = asyncio.get_running_loop().time()
            await closed(first)
            assert asyncio.get_running_loop().time() - start < 1.0, "not by silence"
            assert not second.closed
            await closed(second)
            assert "nothing came" in second.close_reason

    with child() as killed, child() as stopped:
        run(scenario(killed, stopped))


def test_a_folder_of_a_dead_process_is_swept_and_that_of_a_living_one_is_not() -> None:
    dead = Path(f"/tmp/swarm-node-{os.getpid()}-dead")
    dead.mkdir()
    (dead / "p2pd.sock").touch()

    async def scenario() -> None:
        living = await SocketFolder.create()
        socket_folder.sweep()
        assert own_folders() == [living.path]
        await living.close()
        await living.close()
        assert own_folders() == []

    run(scenario())


def test_a_node_runs_in_a_thread_that_is_not_the_main_one() -> None:
    async def scenario() -> None:
        async def inner() -> None:
            async with node() as one:
                assert one.addresses

        await asyncio.gather(*(asyncio.to_thread(run, inner(), loop) for loop in LOOPS))

    run(scenario())
