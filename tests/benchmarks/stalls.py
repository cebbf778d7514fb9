"""How long generation stands still when a hop dies: the longest gap between two tokens, per position of the hop.

python -m tests.benchmarks.stalls --size A --prompt 512 --rounds 3

Three spans with two peers each; the hop in use is killed (SIGKILL) or stopped (SIGSTOP) in the middle, its twin takes
over. Beside the stall stands what replaying the past into the lost layers costs at least: their prefill, run locally.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, StoppingCriteriaList

from swarm import SwarmModel
from tests.benchmarks.models import SIZES, save
from tests.benchmarks.overhead import seconds, spans
from tests.generation import AtToken
from tests.peers import LocalSwarm, PeerProcess
from tests.processes import Zygote

PEERS = 3
NEW_TOKENS = 32
STRIKE_AT = 16


class Clock:
    """A streamer that notes when tokens come."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def put(self, value: Tensor) -> None:
        self.times.append(time.perf_counter())

    def end(self) -> None:
        """Nothing to flush."""

    def stall_s(self) -> float:
        """The longest gap between two tokens, less the usual one."""
        gaps = [b - a for a, b in zip(self.times[1:], self.times[2:], strict=False)]
        return max(gaps) - statistics.median(gaps)


class Bench:
    """A swarm in which every span is served twice."""

    def __init__(self, swarm: LocalSwarm, folder: Path, size: str) -> None:
        self._swarm = swarm
        self._folder = folder
        self._gateway = swarm.bootstrap()
        self._spans = spans(SIZES[size].layers, PEERS)
        self._peers: list[PeerProcess] = []

    def stall(self, victim: int, strike: Callable[[PeerProcess], None], ids: Tensor) -> float:
        """The stall when the hop at position `victim` is struck, in seconds."""
        self._complete()
        clock = Clock()
        with SwarmModel.from_pretrained(self._folder, peers=self._gateway.addresses) as model:

            def act() -> None:
                assert model.chain is not None
                peer_id = model.chain.hops[victim].peer_id
                strike(next(peer for peer in self._peers if peer.peer_id == peer_id))

            model.generate(
                ids,
                do_sample=False,
                pad_token_id=0,
                max_new_tokens=NEW_TOKENS,
                min_new_tokens=NEW_TOKENS,
                streamer=clock,
                stopping_criteria=StoppingCriteriaList([AtToken(STRIKE_AT, act)]),
            )
        for peer in self._peers:
            peer.resume()
        return clock.stall_s()

    def _complete(self) -> None:
        self._peers = [peer for peer in self._peers if peer.status is None]
        for span in self._spans:
            for _ in range(2 - sum(str(peer.span) == span for peer in self._peers)):
                peers = self._gateway.addresses
                self._peers.append(self._swarm.serve(self._folder, span, "--threads", "1", peers=peers))


def run(size: str, prompt: int, rounds: int) -> list[dict[str, Any]]:
    """Strike every position `rounds` times, both ways."""
    torch.set_num_threads(1)
    ids = torch.randint(5, SIZES[size].vocabulary, (1, prompt), generator=torch.Generator().manual_seed(1))
    with tempfile.TemporaryDirectory(prefix="stalls-") as name:
        folder = save(size, Path(name) / "model")
        auto: Any = AutoModelForCausalLM
        local = auto.from_pretrained(folder, dtype=torch.float32)
        with torch.no_grad():
            prefill_s = min(seconds(lambda: local(ids))[0] for _ in range(3)) / PEERS
        zygote = Zygote(Path(name) / "zygote.log")
        try:
            with LocalSwarm(zygote) as swarm:
                bench = Bench(swarm, folder, size)
                return [
                    _row(bench, ids, way, victim, rounds) | {"replay_at_least_s": round(prefill_s, 3)}
                    for way in ("kill", "suspend")
                    for victim in range(PEERS)
                ]
        finally:
            zygote.close()


def _row(bench: Bench, ids: Tensor, way: str, victim: int, rounds: int) -> dict[str, Any]:
    strikes: dict[str, Callable[[PeerProcess], None]] = {
        "kill": PeerProcess.kill,
        "suspend": PeerProcess.suspend,
    }
    stalls = [bench.stall(victim, strikes[way], ids) for _ in range(rounds)]
    return {"way": way, "hop": victim, "stall_s": [round(s, 3) for s in sorted(stalls)]}


def main() -> None:
    """Parse the command line, run, and print one line of JSON per case."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", choices=sorted(SIZES), default="A")
    parser.add_argument("--prompt", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    for row in run(options.size, options.prompt, options.rounds):
        print(json.dumps({"prompt": options.prompt, **row}))


if __name__ == "__main__":
    main()
