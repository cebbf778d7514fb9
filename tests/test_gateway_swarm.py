"""The gateway over real peers: one of them dies in mid-answer, clients vanish, and nobody notices."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import httpx2
import pytest
from anthropic import Anthropic
from openai import OpenAI

from swarm import SwarmModel
from tests.gateway_lab import RunningGateway, local_text, make_gateway, running
from tests.peers import LocalSwarm, PeerProcess
from tests.swarm_records import records
from tests.waiting import wait_for

pytestmark = [pytest.mark.slow, pytest.mark.network]

TOKENS = 60
KILL_AT = 12  # pieces of text
NAMES = ("Lily", "Tom", "Mia", "Ben", "Anna", "Max")
STORY: list[Any] = [{"role": "user", "content": "Tell me a story about Lily."}]


@dataclass(frozen=True)
class Site:
    """A gateway in this process, over peers that are processes."""

    swarm: LocalSwarm
    served: RunningGateway

    @property
    def url(self) -> str:
        return f"{self.served.url}/v1"

    def spare(self) -> PeerProcess:
        """One more peer for the middle of the chain."""
        return self.swarm.serve("demo", "3:6", "--threads", "1")

    def kill_middle(self, chain: str) -> None:
        """Kill the second hop of a chain as the response's header gives it."""
        peer_id = chain.split(", ")[1].partition("=")[0]
        next(peer for peer in self.swarm.peers if peer.peer_id == peer_id and peer.status is None).kill()

    def wait_all_free(self) -> None:
        """Wait until every peer that lives has all its cache free, as it announces."""

        def idle() -> bool:
            alive = {peer.peer_id for peer in self.swarm.peers if peer.status is None}
            found = [r for r in records(self.swarm.addresses) if r.peer_id in alive]
            return len(found) == len(alive) and all(
                r.free_tokens == r.total_tokens and r.sessions == 0 for r in found
            )

        wait_for(idle, 30, "all cache of all living peers is free")

    @property
    def failovers(self) -> int:
        return int(self.served.model.stats.failovers)


@pytest.fixture(scope="module")
def site(zygote: Any) -> Iterator[Site]:
    with LocalSwarm(zygote) as swarm:
        for span in ("0:3", "3:6", "6:8"):
            swarm.serve("demo", span, "--threads", "1")
        with (
            SwarmModel.from_pretrained("demo", peers=swarm.addresses[:1]) as model,
            running(make_gateway(model)) as served,
        ):
            site = Site(swarm, served)
            yield site
            site.wait_all_free()


def survives(site: Site, answer: Callable[[Callable[[str], None]], str]) -> None:
    """`answer` calls what it is given with the chain when it is in the middle; its text must be the local model's."""
    site.spare()
    before = site.failovers
    assert answer(site.kill_middle) == local_text(STORY, TOKENS)
    assert site.failovers > before


def test_a_chat_stream_survives_the_death_of_a_peer(site: Site) -> None:
    def answer(kill: Callable[[str], None]) -> str:
        with OpenAI(base_url=site.url, api_key="none") as client:
            raw = client.chat.completions.with_raw_response.create(
                model="demo", messages=STORY, max_tokens=TOKENS, stream=True
            )
            text = ""
            for count, chunk in enumerate(raw.parse()):
                text += chunk.choices[0].delta.content or ""
                if count == KILL_AT:
                    kill(raw.headers["x-swarm-chain"])
            return text

    survives(site, answer)


def test_many_streams_at_once_survive_the_death_of_a_peer(site: Site) -> None:
    site.spare()
    before = site.failovers
    asked = [[{"role": "user", "content": f"Tell me a story about {name}."}] for name in NAMES]
    halfway = threading.Barrier(len(asked) + 1, timeout=60)

    def answer(messages: list[Any]) -> str:
        with OpenAI(base_url=site.url, api_key="none") as client:
            stream: Any = client.chat.completions.create(
                model="demo", messages=messages, max_tokens=TOKENS, stream=True
            )
            text = ""
            for count, chunk in enumerate(stream):
                text += chunk.choices[0].delta.content or ""
                if count == KILL_AT:
                    halfway.wait()
            return text

    with ThreadPoolExecutor(len(asked)) as threads:
        answers = [threads.submit(answer, messages) for messages in asked]
        halfway.wait()
        chain = site.served.model.chain
        assert chain is not None
        site.kill_middle(", ".join(f"{hop.peer_id}={hop.span}" for hop in chain.hops))
        found = [future.result() for future in answers]
    assert found == [local_text(messages, TOKENS) for messages in asked]
    assert site.failovers > before


def test_a_messages_stream_survives_the_death_of_a_peer(site: Site) -> None:
    def answer(kill: Callable[[str], None]) -> str:
        with (
            Anthropic(base_url=site.served.url, api_key="none") as client,
            client.messages.stream(model="demo", messages=STORY, max_tokens=TOKENS) as stream,
        ):
            chain = stream.response.headers["x-swarm-chain"]
            for count, _ in enumerate(stream.text_stream):
                if count == KILL_AT:
                    kill(chain)
            return stream.get_final_text()

    survives(site, answer)


def test_an_answer_in_one_piece_survives_the_death_of_a_peer(site: Site) -> None:
    def answer(kill: Callable[[str], None]) -> str:
        def strike() -> None:
            wait_for(lambda: site.served.model.stats.steps > steps + KILL_AT, 30, "it is in the middle")
            chain = site.served.model.chain
            assert chain is not None
            kill(", ".join(f"{hop.peer_id}={hop.span}" for hop in chain.hops))

        steps = site.served.model.stats.steps
        killer = threading.Thread(target=strike)
        killer.start()
        with OpenAI(base_url=site.url, api_key="none") as client:
            found = client.responses.create(model="demo", input=STORY, max_output_tokens=TOKENS)
        killer.join()
        return found.output_text

    survives(site, answer)


@pytest.mark.parametrize("api", ["chat", "messages"])
def test_a_stop_text_ends_the_answer_after_the_death_of_a_peer_too(site: Site, api: str) -> None:
    whole = local_text(STORY, TOKENS)
    stop = whole[-8:]
    site.spare()
    before, text, count = site.failovers, "", 0
    with (
        OpenAI(base_url=site.url, api_key="none") as openai,
        Anthropic(base_url=site.served.url, api_key="none") as anthropic,
    ):
        if api == "chat":
            chunks: Any = openai.chat.completions.create(
                model="demo", messages=STORY, max_tokens=TOKENS, stop=stop, stream=True
            )
            pieces = (chunk.choices[0].delta.content or "" for chunk in chunks)
        else:
            events: Any = anthropic.messages.create(
                model="demo",
                messages=STORY,
                max_tokens=TOKENS,
                stop_sequences=[stop],
                stream=True,
            )
            pieces = (event.delta.text for event in events if event.type == "content_block_delta")
        for piece in pieces:
            text, count = text + piece, count + 1
            if count == KILL_AT:
                chain = site.served.model.chain
                assert chain is not None
                site.kill_middle(", ".join(f"{hop.peer_id}={hop.span}" for hop in chain.hops))
    assert text == whole[: whole.index(stop)]
    assert site.failovers > before


def test_a_tool_call_survives_the_death_of_a_peer(site: Site) -> None:
    schema = {
        "type": "object",
        "properties": {
            "numbers": {
                "type": "array",
                "items": {"type": "integer", "minimum": 10, "maximum": 99},
                "minItems": 20,
                "maxItems": 20,
            }
        },
        "required": ["numbers"],
        "additionalProperties": False,
    }
    tool: Any = {"name": "sum", "input_schema": schema}

    def call() -> Any:
        with Anthropic(base_url=site.served.url, api_key="none") as client:
            found: Any = client.messages.create(
                model="demo", messages=STORY, max_tokens=200, tools=[tool], tool_choice={"type": "any"}
            )
            return found.content[0].input

    site.spare()
    undisturbed, steps, before = call(), site.served.model.stats.steps, site.failovers

    def strike() -> None:
        wait_for(lambda: site.served.model.stats.steps > steps + KILL_AT, 30, "it is in the middle")
        chain = site.served.model.chain
        assert chain is not None
        site.kill_middle(", ".join(f"{hop.peer_id}={hop.span}" for hop in chain.hops))

    killer = threading.Thread(target=strike)
    killer.start()
    assert call() == undisturbed
    killer.join()
    assert site.failovers > before


def test_headers_tell_the_chain_and_the_times_of_its_hops(site: Site) -> None:
    with httpx2.Client() as client:
        found = client.post(f"{site.url}/completions", json={"model": "demo", "prompt": "Once upon a time"})
    spans = [hop.partition("=")[2] for hop in found.headers["x-swarm-chain"].split(", ")]
    assert spans == ["0:3", "3:6", "6:8"]
    timing = found.headers["server-timing"].split(", ")
    assert [entry.partition(";")[0] for entry in timing] == ["hop0", "hop1", "hop2", "links"]


def test_a_stream_tells_its_chain_at_once_and_again_when_a_peer_was_replaced(site: Site) -> None:
    site.spare()
    body = {"model": "demo", "messages": STORY, "max_tokens": TOKENS, "stream": True}
    with (
        httpx2.Client(timeout=60) as client,
        client.stream("POST", f"{site.url}/chat/completions", json=body) as found,
    ):
        before = found.headers["x-swarm-chain"]
        assert found.headers["server-timing"].count("dur=") == 3
        comments = []
        for count, line in enumerate(found.iter_lines()):
            if count == KILL_AT:
                site.kill_middle(before)
            comments += [line.removeprefix(": x-swarm-chain: ")] if line.startswith(": x-swarm-chain") else []
    first, _, last = before.split(", ")
    assert comments
    assert comments[-1].split(", ")[0] == first
    assert comments[-1].split(", ")[2] == last
    assert comments[-1] != before


def begun(site: Site, path: str, body: dict[str, Any]) -> socket.socket:
    """A connection on which the answer's first bytes have come."""
    connection = socket.create_connection(("127.0.0.1", int(site.served.url.rpartition(":")[2])))
    data = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n"
    connection.sendall(head.encode() + data)
    return connection


def test_clients_that_vanish_leave_no_session(site: Site) -> None:
    body = {"model": "demo", "messages": STORY, "max_tokens": 1500, "stream": True}
    connections = [begun(site, "/v1/chat/completions", body) for _ in range(8)]
    for connection in connections:
        assert connection.recv(64).startswith(b"HTTP/1.1 200")
        connection.close()
    wait_for(lambda: site.served.admission.running == 0, 30, "no answer is made any more")
    site.wait_all_free()


def test_a_client_that_vanishes_from_a_hanging_chain_is_let_go_at_once(site: Site) -> None:
    body = {"model": "demo", "messages": STORY, "max_tokens": 1500}
    steps = site.served.model.stats.steps
    connection = begun(site, "/v1/chat/completions", body)
    wait_for(lambda: site.served.model.stats.steps > steps, 30, "it generates")
    first = site.swarm.peers[0]
    first.suspend()
    try:
        connection.close()
        wait_for(lambda: site.served.admission.running == 0, 30, "nobody waits for the hanging peer")
    finally:
        first.resume()
    site.wait_all_free()
