"""A gateway under load: many streams at once, more requests than it takes, and clients that vanish.

    python -m tests.benchmarks.gateway_load [--sessions 64] [--tokens 64] [--refused 200] [--vanishing 100]
        [--speculate auto]

Three peers of the demo model and one gateway, each a process with one torch thread, on this machine; the clients are
in this process and take their share of its cores. Prints what was found as JSON; exit status 1 if anything was wrong.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import httpx2
import psutil

from tests.gateway_lab import local_text
from tests.peers import LocalSwarm, lone_swarm
from tests.swarm_records import records
from tests.waiting import wait_for

NAMES = ("Lily", "Tom", "Mia", "Ben", "Anna", "Max", "Rosa", "Finn")
TOPICS = ("fox", "dog", "kite", "boat", "cake", "tree", "moon", "storm")
PEER_OPTIONS = ("--threads", "1", "--max-sessions", "512", "--max-sessions-per-client", "512")
LONG = 1500
TIMEOUT_S = 600.0


@dataclass(frozen=True, slots=True)
class Streamed:
    """One answer, and how long its first token took."""

    status: int
    text: str
    tokens: int = 0
    first_s: float = 0.0


def conversation(index: int) -> list[dict[str, str]]:
    """Another prompt for each client."""
    name, topic = NAMES[index % len(NAMES)], TOPICS[index // len(NAMES) % len(TOPICS)]
    return [{"role": "user", "content": f"Tell me a story about {name} and a {topic}."}]


async def stream(client: httpx2.AsyncClient, url: str, index: int, tokens: int) -> Streamed:
    """Ask for one answer and read it to its end."""
    body = {
        "model": "demo", "messages": conversation(index), "max_tokens": tokens,
        "stream": True, "stream_options": {"include_usage": True},
    }  # fmt: skip
    began_s, first_s, text, came = time.perf_counter(), 0.0, "", 0
    async with client.stream("POST", f"{url}/v1/chat/completions", json=body) as response:
        if response.status_code != 200:
            await response.aread()
            return Streamed(response.status_code, "")
        async for line in response.aiter_lines():
            if not line.startswith("data: {"):
                continue
            chunk = json.loads(line[6:])
            came = chunk["usage"]["completion_tokens"] if chunk["usage"] else came
            piece = "".join(choice["delta"].get("content") or "" for choice in chunk["choices"])
            first_s = first_s or (time.perf_counter() - began_s if piece else 0.0)
            text += piece
    return Streamed(200, text, came, first_s)


def new_client() -> httpx2.AsyncClient:
    limits = httpx2.Limits(max_connections=None, max_keepalive_connections=None)
    return httpx2.AsyncClient(timeout=TIMEOUT_S, limits=limits)


async def crowd(url: str, sessions: int, tokens: int) -> tuple[list[Streamed], float]:
    """All at once; the answers, and how long it took."""
    async with new_client() as client:
        began_s = time.perf_counter()
        found = await asyncio.gather(*(stream(client, url, i, tokens) for i in range(sessions)))
        return list(found), time.perf_counter() - began_s


async def overrun(url: str, vanishing: int, refused: int) -> list[int]:
    """Long answers for some, who vanish at the end, and what many more are told meanwhile."""
    async with new_client() as client, new_client() as other:
        holding = [asyncio.create_task(stream(client, url, i, LONG)) for i in range(vanishing)]
        while await gauge(other, url, "sessions") + await gauge(other, url, "queue") < vanishing:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
        answers = await asyncio.gather(*(stream(other, url, i, LONG) for i in range(refused)))
        for task in holding:
            task.cancel()
        await asyncio.gather(*holding, return_exceptions=True)
        return [answer.status for answer in answers]


async def gauge(client: httpx2.AsyncClient, url: str, name: str) -> float:
    """A number from the gateway's metrics."""
    text = (await client.get(f"{url}/metrics")).text
    lines = (line for line in text.splitlines() if line.startswith(f"swarm_gateway_{name} "))
    return float(next(lines).rpartition(" ")[2])


def all_free(swarm: LocalSwarm) -> bool:
    return all(r.free_tokens == r.total_tokens and r.sessions == 0 for r in records(swarm.addresses))


def percentile(values: Sequence[float], share: float) -> float:
    """The value that this share of all does not exceed."""
    ranked = sorted(values)
    return ranked[min(len(ranked) - 1, int(share * len(ranked)))]


def start_gateway(swarm: LocalSwarm, options: argparse.Namespace) -> tuple[str, psutil.Process]:
    ready = swarm.folder / "gateway.json"
    queue = max(0, options.vanishing - options.sessions)
    process = swarm.start(
        "gateway", "demo", "--peers", swarm.addresses[0], "--port", "0", "--ready-file", str(ready),
        "--sessions", str(options.sessions), "--queue", str(queue), "--speculate", options.speculate, name="gateway",
    )  # fmt: skip

    def told() -> dict[str, Any]:
        with suppress(OSError, ValueError):
            found: dict[str, Any] = json.loads(ready.read_text())
            return found
        assert process.status is None, process.log
        return {}

    info = wait_for(told, 60, "the gateway serves")
    process.note_traces()
    return str(info["addresses"][0]), psutil.Process(info["pid"])


def measure(options: argparse.Namespace, swarm: LocalSwarm) -> dict[str, Any]:
    """The three loads, one after the other."""
    url, process = start_gateway(swarm, options)
    expected = [local_text(conversation(i), options.tokens) for i in range(options.sessions)]
    asyncio.run(crowd(url, 2, options.tokens))  # warms up
    memory = [process.memory_info().rss]
    alone, alone_s = asyncio.run(crowd(url, 1, options.tokens))
    answers, took_s = asyncio.run(crowd(url, options.sessions, options.tokens))
    memory.append(process.memory_info().rss)
    statuses = asyncio.run(overrun(url, options.vanishing, options.refused))
    vanished_s = time.monotonic()
    wait_for(lambda: all_free(swarm), 30, "all cache of all peers is free")
    freed_s = time.monotonic() - vanished_s
    memory.append(process.memory_info().rss)
    (after,), _ = asyncio.run(crowd(url, 1, options.tokens))
    firsts = [answer.first_s for answer in answers]
    tokens = sum(answer.tokens for answer in answers)
    return {
        "sessions": options.sessions,
        "answered": sum(answer.status == 200 for answer in answers),
        "wrong": sum(answer.text != text for answer, text in zip(answers, expected, strict=True)),
        "wrong_alone": sum(answer.text != expected[0] for answer in (*alone, after)),
        "first_token_s": {"median": statistics.median(firsts), "p99": percentile(firsts, 0.99)},
        "tokens_per_s": {"all": tokens / took_s, "one_session_alone": alone[0].tokens / alone_s},
        "refused": statuses.count(429),
        "of_refused": len(statuses),
        "vanished": options.vanishing,
        "freed_after_s": freed_s,
        "gateway_mib": [round(size / 2**20) for size in memory],
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--sessions", type=int, default=64)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--refused", type=int, default=200)
    parser.add_argument("--vanishing", type=int, default=100)
    parser.add_argument("--speculate", choices=("auto", "off"), default="off")
    options = parser.parse_args()
    with lone_swarm() as (swarm, left):
        for span in ("0:3", "3:6", "6:8"):
            swarm.serve("demo", span, *PEER_OPTIONS)
        found = measure(options, swarm)
    print(json.dumps(found, indent=2))
    wrong = found["wrong"] + found["wrong_alone"] + (found["refused"] != options.refused)
    return 1 if wrong or left or found["answered"] != options.sessions else 0


if __name__ == "__main__":
    sys.exit(main())
