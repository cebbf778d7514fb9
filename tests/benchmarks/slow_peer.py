"""How soon a peer that has become slow loses its traffic, and how soon it gets some again.

    python -m tests.benchmarks.slow_peer [--rounds 3] [--factor 40]

Three peers of the demo model on this machine, two of them for the same layers. Two clients: one with long sessions, in
the middle of which the faster of the two becomes slow; one with a new short session after the other. Every answer is
compared with the local model's. Prints the seconds as JSON; exit status 1 if an answer was wrong.
"""

from __future__ import annotations

import argparse
import json
import sys
import threading
import time
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from swarm.builtin import demo_path
from swarm.client.model import SwarmModel
from tests.peers import LocalSwarm, lone_swarm
from tests.slow_swarm import SlowSwarm, Way, generate_on

LONG, SHORT, STRUCK_AT = 200, 8, 60
LONGEST_S = 60.0


class ShortSessions:
    """A thread with one short session after the other."""

    def __init__(self, model: SwarmModel, expected: Tensor) -> None:
        self.model = model
        self.ways: list[Way] = []
        self.wrong = 0
        self._expected = expected
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        torch.set_num_threads(1)
        while not self._ending.is_set():
            way = generate_on(self.model, SHORT)
            self.wrong += not torch.equal(way.tokens, self._expected)
            self.ways.append(way)

    def end(self) -> None:
        self._ending.set()
        self._thread.join()

    def began_on(self, peer_id: str, after_s: float) -> float | None:
        """When the first session that began after `after_s` on this peer gave its first token."""
        times = [w.times[0] for w in list(self.ways) if w.times[0] > after_s and peer_id in w.peers[0]]
        return min(times, default=None)


def wait_until_used(sessions: ShortSessions, peer_id: str, since_s: float) -> float | None:
    """Seconds from `since_s` until a new session is on the peer; None if none was for long."""
    while time.perf_counter() < since_s + LONGEST_S:
        found = sessions.began_on(peer_id, since_s)
        if found is not None:
            return found - since_s
        time.sleep(0.05)
    return None


def one_round(
    peers: SlowSwarm, model: SwarmModel, sessions: ShortSessions, expected: Tensor, factor: float
) -> dict[str, Any]:
    """The seconds of one slowing down and speeding up."""
    victim = peers.victim.peer_id
    struck: list[float] = []

    def strike() -> None:
        peers.slow_down(factor)
        struck.append(time.perf_counter())

    way = generate_on(model, LONG, at=(STRUCK_AT, strike))
    slow_s = struck[0]
    through = [t for t, chain in zip(way.times, way.peers, strict=True) if victim in chain and t > slow_s]
    short = [w.times[-1] for w in list(sessions.ways) if w.times[-1] > slow_s and victim in w.peers[-1]]
    peers.speed_up()
    fast_s = time.perf_counter()
    return {
        "right": torch.equal(way.tokens, expected),
        "left": victim not in way.peers[-1],
        "running_session_leaves_s": max(through, default=slow_s) - slow_s,
        "its_tokens_meanwhile": len(through),
        "last_new_session_there_s": max(short, default=slow_s) - slow_s,
        "new_sessions_there_meanwhile": len(short),
        "used_again_s": wait_until_used(sessions, victim, fast_s),
    }


def measure(swarm: LocalSwarm, rounds: int, factor: float) -> dict[str, Any]:
    """All rounds, for printing; each with clients that remember nothing of the ones before."""
    local: Any = AutoModelForCausalLM.from_pretrained(demo_path(), dtype=torch.float32)
    long, short = (generate_on(local, tokens).tokens for tokens in (LONG, SHORT))
    peers = SlowSwarm(swarm)
    return {"factor": factor, "rounds": [with_clients(peers, long, short, factor) for _ in range(rounds)]}


def with_clients(peers: SlowSwarm, long: Tensor, short: Tensor, factor: float) -> dict[str, Any]:
    """A round of two fresh clients, begun when both use the peer."""
    with (
        SwarmModel.from_pretrained("demo", peers=peers.addresses) as first,
        SwarmModel.from_pretrained("demo", peers=peers.addresses) as second,
    ):
        sessions = ShortSessions(second, short)
        try:
            wait_until_used(sessions, peers.victim.peer_id, time.perf_counter())
            while peers.victim.peer_id not in generate_on(first, SHORT).peers[-1]:
                time.sleep(0.1)
            found = one_round(peers, first, sessions, long, factor)
        finally:
            sessions.end()
        counts = {"short": len(sessions.ways), "wrong_short": sessions.wrong, "replans": first.stats.replans}
        found |= {**counts, "failovers": first.stats.failovers + second.stats.failovers}
        print(json.dumps(found), file=sys.stderr)
        return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--factor", type=float, default=40.0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    with lone_swarm() as (swarm, left):
        found = measure(swarm, options.rounds, options.factor)
    print(json.dumps(found, indent=2))
    wrong = any(each["wrong_short"] or not each["right"] for each in found["rounds"])
    return int(wrong or bool(left))


if __name__ == "__main__":
    sys.exit(main())
