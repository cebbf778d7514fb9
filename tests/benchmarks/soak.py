"""A swarm that is never left in peace: peers are killed, stopped, held still and joined while clients generate.

    python -m tests.benchmarks.soak [--minutes 30] [--peers 6] [--clients 8] [--pause 4]

Peers of the demo model with `--layers auto --max-layers 4`, on this machine; every answer is compared with the local
model's. Prints what was found as JSON; exit status 1 if an answer was wrong, memory grew, or anything was left behind.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import psutil
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from swarm.builtin import demo_path
from swarm.client.model import SwarmModel
from swarm.core.config import ClientConfig
from tests.peers import LocalSwarm, PeerProcess, lone_swarm
from tests.swarm_records import wait_all_free

OPTIONS = (
    "--threads",
    "1",
    "--max-layers",
    "4",
    "--cache-tokens",
    "8192",
    "--lease-s",
    "9",
    "--review-s",
    "8",
)
DEEDS = ("kill", "stop", "hold", "join")
MODES: dict[str, dict[str, Any]] = {
    "greedy": {},
    "drafted": {"prompt_lookup_num_tokens": 3},
    "beams": {"num_beams": 2},
    "batch": {},
}
NEW_TOKENS = 40
QUESTIONS = 24
PATIENCE_S = 600.0
HELD_S = 1.0
MOST_GROWTH = 1.25


class Questions:
    """Prompts with the local model's answers."""

    def __init__(self) -> None:
        local: Any = AutoModelForCausalLM.from_pretrained(demo_path(), dtype=torch.float32)
        dice = torch.Generator().manual_seed(5)
        self.all: list[tuple[str, Tensor, Tensor]] = []
        for number in range(QUESTIONS):
            mode = list(MODES)[number % len(MODES)]
            rows, length = (2 if mode == "batch" else 1), 8 + 5 * (number % 9)
            ids = torch.randint(5, 150, (rows, length), generator=dice)
            self.all.append((mode, ids, answer(local, mode, ids)))


def answer(model: Any, mode: str, ids: Tensor) -> Tensor:
    """What `generate()` makes of a prompt, without dice."""
    options = {
        "do_sample": False,
        "max_new_tokens": NEW_TOKENS,
        "min_new_tokens": NEW_TOKENS,
        "pad_token_id": 0,
    }
    found: Tensor = model.generate(ids, attention_mask=torch.ones_like(ids), **options, **MODES[mode])
    return found


class Tally:
    """What the clients found; for several threads."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.answers: Counter[str] = Counter()
        self.seconds: list[float] = []
        self.wrong: list[str] = []


def ask(model: SwarmModel, questions: Questions, dice: random.Random, end_s: float, tally: Tally) -> None:
    """One client: question after question until the time is over."""
    while time.monotonic() < end_s:
        mode, ids, expected = dice.choice(questions.all)
        began_s = time.monotonic()
        try:
            right = torch.equal(answer(model, mode, ids), expected)
            complaint = "another text than the local model's"
        except Exception as error:  # whatever it is, it is a finding
            right, complaint = False, f"{type(error).__name__}: {error}"
        with tally.lock:
            tally.answers[mode] += 1
            tally.seconds.append(time.monotonic() - began_s)
            if not right:
                tally.wrong.append(f"{mode}: {complaint}")


class Trouble:
    """Does something to a peer again and again; never leaves less than `least` of them."""

    def __init__(self, swarm: LocalSwarm, gateway: list[str], peers: int, dice: random.Random) -> None:
        self.swarm, self.gateway, self.dice = swarm, gateway, dice
        self.peers = peers
        self.alive: list[PeerProcess] = [self._join() for _ in range(peers)]
        self.deeds: Counter[str] = Counter()

    def _join(self) -> PeerProcess:
        return self.swarm.serve("demo", "auto", *OPTIONS, peers=self.gateway)

    def make(self) -> None:
        """One deed; a swarm that is too small gets a peer, one that is too large loses one."""
        self.alive = [peer for peer in self.alive if peer.status is None]
        deed = self.dice.choice(DEEDS)
        if len(self.alive) < self.peers - 1:
            deed = "join"
        elif len(self.alive) > self.peers and deed == "join":
            deed = "stop"
        self.deeds[deed] += 1
        if deed == "join":
            self.alive.append(self._join())
            return
        victim = self.dice.choice(self.alive)
        if deed == "kill":
            victim.kill()
        elif deed == "stop":
            victim.terminate()
        else:
            victim.suspend()
            time.sleep(HELD_S)
            victim.resume()

    def moves(self) -> int:
        """How often peers moved, as their logs tell."""
        return sum(peer.log.count("moved ") for peer in self.swarm.peers)


def megabytes(pid: int | None = None) -> float:
    """Resident memory of a process; of this one by default."""
    return psutil.Process(pid).memory_info().rss / 2**20


def models(stack: ExitStack, gateway: list[str], count: int) -> Iterator[SwarmModel]:
    """Loaded models, each for several clients."""
    for _ in range(count):
        config = ClientConfig(unavailable_timeout_s=PATIENCE_S)
        yield stack.enter_context(SwarmModel.from_pretrained("demo", peers=gateway, config=config))


def soak(swarm: LocalSwarm, minutes: float, peers: int, clients: int, pause_s: float) -> dict[str, Any]:
    """Run it; what was found, for printing."""
    dice, tally, questions = random.Random(1), Tally(), Questions()
    gateway = list(swarm.bootstrap().addresses)
    trouble = Trouble(swarm, gateway, peers, dice)
    memory: list[float] = []
    with ExitStack() as stack:
        loaded = list(models(stack, gateway, 2))
        end_s = time.monotonic() + 60 * minutes
        threads = [
            threading.Thread(target=ask, args=(loaded[n % 2], questions, random.Random(n), end_s, tally))
            for n in range(clients)
        ]
        for thread in threads:
            thread.start()
        while time.monotonic() < end_s:
            time.sleep(pause_s)
            trouble.make()
            memory.append(megabytes())
        for thread in threads:
            thread.join()
        stats = [model.stats for model in loaded]
        failovers, handovers = (sum(getattr(s, name) for s in stats) for name in ("failovers", "handovers"))
    wait_all_free(gateway, 60.0)
    quarter = max(len(memory) // 4, 1)
    return {
        "minutes": minutes, "answers": dict(tally.answers), "wrong": tally.wrong, "deeds": dict(trouble.deeds),
        "moves": trouble.moves(), "failovers": failovers, "handovers": handovers,
        "answer_s": {"median": statistics.median(tally.seconds), "longest": max(tally.seconds)},
        "client_MiB": {"first_quarter": statistics.median(memory[:quarter]),
                       "last_quarter": statistics.median(memory[-quarter:])},
        "peers_MiB": sorted(round(megabytes(p.pid)) for p in trouble.alive if p.status is None),
    }  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--peers", type=int, default=6)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--pause", type=float, default=4.0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    with lone_swarm() as (swarm, left):
        found = soak(swarm, options.minutes, options.peers, options.clients, options.pause)
    found["left_behind"] = [str(process) for process in left]
    print(json.dumps(found, indent=2))
    memory = found["client_MiB"]
    grew = memory["last_quarter"] > MOST_GROWTH * memory["first_quarter"]
    return int(bool(found["wrong"] or left or grew))


if __name__ == "__main__":
    sys.exit(main())
