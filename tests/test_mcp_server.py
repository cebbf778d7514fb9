"""The MCP server over three real peers, asked by the SDK's own client over stdio and HTTP."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from mcp import Client, MCPError
from mcp.client.stdio import StdioServerParameters, stdio_client

from swarm.core.config import ClientConfig, ModelConfig
from swarm.mcp_server.config import McpConfig
from swarm.mcp_server.reach import Reach
from swarm.mcp_server.server import build
from tests.gateway_lab import local_text
from tests.peers import LocalSwarm
from tests.processes import QUIET, ROOT, Zygote
from tests.swarm_records import wait_all_free
from tests.waiting import wait_for

pytestmark = [pytest.mark.slow, pytest.mark.network]

STORY = "Tell me a story about Lily."
TOKENS = 24
RESOURCES = {"llm://models", "llm://nodes", "llm://performance"}
TOOLS = {"llm_inference_distributed", "swarm_status", "swarm_simulate"}


@pytest.fixture(scope="module")
def swarm(zygote: Zygote) -> Iterator[LocalSwarm]:
    with LocalSwarm(zygote) as swarm:
        for name, span in (("ada", "0:3"), ("ben", "3:6"), ("cleo", "6:8")):
            swarm.serve("demo", span, "--name", name, "--threads", "1")
        yield swarm


@asynccontextmanager
async def in_process(swarm: LocalSwarm) -> AsyncIterator[Client]:
    """A client of a server in this process."""
    config = McpConfig(
        ModelConfig("demo"), (swarm.addresses[0],), client=ClientConfig(unavailable_timeout_s=5)
    )
    reach = Reach(config)
    try:
        async with Client(build(reach)) as client:
            yield client
    finally:
        await reach.close()


def ask(swarm: LocalSwarm, questions: Callable[[Client], Awaitable[Any]]) -> Any:
    async def run() -> Any:
        async with in_process(swarm) as client:
            return await questions(client)

    return asyncio.run(run())


def expected(tokens: int = TOKENS) -> str:
    return local_text([{"role": "user", "content": STORY}], tokens)


async def tell(client: Client, **arguments: Any) -> Any:
    return await client.call_tool(
        "llm_inference_distributed",
        {"prompt": STORY, "sampling": {"max_tokens": TOKENS, "temperature": 0}} | arguments,
    )


async def read(client: Client, uri: str) -> Any:
    found: Any = (await client.read_resource(uri, cache_mode="bypass")).contents[0]
    return json.loads(found.text)


async def use_everything(client: Client) -> None:
    """What a client does with a server, whatever lies between."""
    assert {tool.name for tool in (await client.list_tools()).tools} == TOOLS
    assert {str(resource.uri) for resource in (await client.list_resources()).resources} == RESOURCES
    result = await tell(client)
    assert not result.is_error, result.content
    found = result.structured_content
    assert found["answers"] == [{"text": expected(), "tokens": TOKENS, "finish_reason": "length"}]
    assert [(hop["name"], hop["layers"]) for hop in found["chain"]] == [
        ("ada", [0, 3]), ("ben", [3, 6]), ("cleo", [6, 8]),
    ]  # fmt: skip
    status = await client.call_tool("swarm_status", {})
    assert status.structured_content["models"][0]["complete"]
    assert [node["name"] for node in await read(client, "llm://nodes")] == ["ada", "ben", "cleo"]


def test_over_stdio(swarm: LocalSwarm, tmp_path: Path) -> None:
    command = ["-m", "swarm.cli.main", "--debug", "mcp", "demo", "--peers", swarm.addresses[0]]
    home = {"HOME": str(tmp_path), "PYTHONPATH": str(ROOT), "PATH": os.environ["PATH"]}
    server = StdioServerParameters(command=sys.executable, args=command, env=QUIET | home, cwd=tmp_path)

    async def run() -> None:
        with (tmp_path / "log").open("w") as log:
            async with Client(stdio_client(server, errlog=log)) as client:
                await use_everything(client)

    asyncio.run(run())
    log = (tmp_path / "log").read_text()
    assert "Lily" not in log
    assert "story" not in log


def test_over_http(swarm: LocalSwarm) -> None:
    ready = swarm.folder / "mcp.json"
    options = ["--http", "--port", "0", "--ready-file", str(ready)]
    process = swarm.start("mcp", "demo", "--peers", swarm.addresses[0], *options, env={"SWARM_DEBUG": "1"})

    def told() -> str:
        with contextlib.suppress(OSError, ValueError):
            return str(json.loads(ready.read_text())["addresses"][0])
        assert process.status is None, process.log
        return ""

    url = wait_for(told, 120, "the server listens")
    process.note_traces()

    async def run() -> None:
        async with Client(url) as client:
            await use_everything(client)

    asyncio.run(run())
    process.terminate()
    assert process.wait(30) == 0
    assert "Lily" not in process.log


def test_answers_are_generated_at_once_each_with_its_own_draws(swarm: LocalSwarm) -> None:
    sampling = {"max_tokens": 12, "temperature": 1.5, "seed": 3}

    async def questions(client: Client) -> list[Any]:
        return [(await tell(client, parallelism=3, sampling=sampling)).structured_content for _ in range(2)]

    first, second = ask(swarm, questions)
    texts = [answer["text"] for answer in first["answers"]]
    assert len(set(texts)) == 3
    assert [answer["text"] for answer in second["answers"]] == texts


def test_nodes_decide_who_is_used(swarm: LocalSwarm) -> None:
    spare = swarm.serve("demo", "3:8", "--name", "dora", "--threads", "1")

    async def questions(client: Client) -> list[Any]:
        by_name = await tell(client, nodes=["ada", "dora"])
        by_id = await tell(client, nodes=[peer.peer_id for peer in swarm.peers[:3]])
        return [by_name.structured_content, by_id.structured_content]

    try:
        results = ask(swarm, questions)
    finally:
        spare.terminate()  # says goodbye
        spare.wait()
    assert [hop["name"] for hop in results[0]["chain"]] == ["ada", "dora"]
    assert [hop["name"] for hop in results[1]["chain"]] == ["ada", "ben", "cleo"]
    assert [result["answers"][0]["text"] for result in results] == [expected()] * 2


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ({"prompt": ""}, "prompt"),
        ({"parallelism": 0}, "parallelism"),
        ({"parallelism": 17}, "parallelism"),
        ({"sampling": {"temperature": -1}}, "temperature"),
        ({"sampling": {"warmth": 1}}, "warmth"),
        ({"model": "gpt2"}, "this server generates with demo, not with gpt2"),
        ({"nodes": []}, "nodes"),
        ({"nodes": ["eve"]}, "there is no peer eve; demo is served by ada, ben, cleo"),
        ({"nodes": ["ada", "cleo"]}, "ada, cleo do not serve layer 3"),
        ({"sampling": {"max_tokens": 30000}}, "demo has room for 2048 tokens"),
    ],
)
def test_bad_arguments_are_errors_that_say_what_is_wrong(
    swarm: LocalSwarm, arguments: dict[str, Any], complaint: str
) -> None:
    result = ask(swarm, lambda client: tell(client, **arguments))
    assert result.is_error
    assert complaint in result.content[0].text


def test_what_is_not_there_is_an_error(swarm: LocalSwarm) -> None:
    async def questions(client: Client) -> list[Any]:
        status = await client.call_tool("swarm_status", {"model": "other"})
        with pytest.raises(MCPError):
            await client.read_resource("llm://secrets")
        return [status]

    [status] = ask(swarm, questions)
    assert status.is_error
    assert "nobody serves other in this swarm; it serves demo" in status.content[0].text


def test_performance_tells_what_was_generated(swarm: LocalSwarm) -> None:
    async def questions(client: Client) -> list[Any]:
        before = await read(client, "llm://performance")
        await tell(client, parallelism=2)
        return [before, await read(client, "llm://performance")]

    before, after = ask(swarm, questions)
    assert (before["this_server"]["calls"], before["this_server"]["tokens_per_s"]) == (0, None)
    assert (after["this_server"]["answers"], after["this_server"]["tokens"]) == (2, 2 * TOKENS)
    assert after["models"][0]["weakest_layer_tokens_per_s"] > 0


def test_a_call_that_is_given_up_frees_its_sessions(swarm: LocalSwarm) -> None:
    async def questions(client: Client) -> int:
        came = asyncio.Event()

        async def progress(progress: float, total: float | None = None, message: str | None = None) -> None:
            came.set()

        arguments = {"prompt": STORY, "parallelism": 2, "sampling": {"max_tokens": 1900, "temperature": 5}}
        call = asyncio.create_task(
            client.call_tool("llm_inference_distributed", arguments, progress_callback=progress)
        )
        await came.wait()
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        await asyncio.to_thread(wait_all_free, swarm.addresses)  # while the server lives on
        performance = await read(client, "llm://performance")
        return int(performance["this_server"]["running"])

    assert ask(swarm, questions) == 0


def test_a_swarm_that_is_not_there_is_an_error_and_tried_again(swarm: LocalSwarm) -> None:
    nobody = f"/ip4/127.0.0.1/tcp/1/p2p/{swarm.peers[0].peer_id}"

    async def run() -> list[Any]:
        async with Client(build(Reach(McpConfig(ModelConfig("demo"), (nobody,))))) as client:
            with pytest.raises(MCPError, match="cannot reach any of the peers"):
                await client.read_resource("llm://models")
            return [await tell(client), await client.call_tool("swarm_status", {})]

    for result in asyncio.run(run()):
        assert result.is_error
        assert "cannot reach any of the peers" in result.content[0].text


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ([], "--peers is missing"),
        (["--peers", "ADDRESS", "--host", "0.0.0.0"], "--host 0.0.0.0 lets other machines in"),
        (["--peers", "ADDRESS", "--port", "99999"], "--port"),
    ],
)
def test_bad_options_give_one_clear_line(swarm: LocalSwarm, options: list[str], said: str) -> None:
    done = swarm.run("mcp", "demo", *(swarm.addresses[0] if o == "ADDRESS" else o for o in options))
    assert (done.status, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert said in done.stderr


def test_without_the_sdk_it_says_what_to_install() -> None:
    script = (
        "import sys; sys.modules['mcp'] = None; from swarm.cli.main import run;"
        "sys.exit(run(['mcp', 'demo', '--peers', sys.argv[1]]))"
    )
    address = "/ip4/127.0.0.1/tcp/1/p2p/12D3KooWExeMD52dy9zaakce5QMLJGR7qZxyWjUfRKxYEb1rpoYw"
    command = [sys.executable, "-c", script, address]
    done = subprocess.run(command, check=False, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2
    assert "pip install 'layerswarm[mcp]'" in done.stderr


def test_a_simulation_gives_its_table(swarm: LocalSwarm) -> None:
    arguments = {"scenario": "slow_decay", "peers": 20}
    result = ask(swarm, lambda client: client.call_tool("swarm_simulate", arguments))
    assert not result.is_error, result.content
    [row] = result.structured_content["rows"]
    assert (row["policy"], row["peers"]) == ("ours", 20)
    assert 0 < row["ratio"] <= 1
