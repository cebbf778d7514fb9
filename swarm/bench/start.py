"""Seconds from the start of a fresh process to its first token, over 1 to N peers, beside the local model."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from statistics import median

from swarm.bench.first_token import FirstToken
from swarm.bench.lab import Lab, cut
from swarm.bench.local_swarm import LocalSwarm, child_environment
from swarm.bench.plan import Plan
from swarm.bench.ratios import divergences, ratio
from swarm.bench.report import Column, Figure, Report, Row
from swarm.bench.turns import Turns, round_name
from swarm.core.errors import NodeError

PROMPT = 16
TIMEOUT_S = 300.0
COLUMNS = (
    Column("who", "start"),
    Column("seconds", "first token, s", 2),
    Column("ratio", "x local time"),
    Column("spread", "rounds"),
    Column("loaded_s", "model loaded after, s", 2),
    Column("generate_ms", "generate(), ms", 0),
)


@dataclass(frozen=True, slots=True)
class Start:
    """One process: seconds since it was started, until the model was there and until the token was; the token."""

    loaded_s: float
    first_s: float
    token: int


def start(lab: Lab, plan: Plan) -> Report:
    """Each round everyone starts once, one after the other. Files are in the memory of the system by then."""
    length = plan.prompt or PROMPT
    rounds: list[list[Start]] = []
    with ExitStack() as stack:
        ways_in: list[list[str]] = [[]]  # none: the local model
        for peers in range(1, plan.peers + 1):
            swarm = stack.enter_context(LocalSwarm())
            ways_in.append(lab.start_peers(swarm, cut(lab.layers, peers)))
        for i in range(plan.rounds + 1):
            lab.tell(f"start: {round_name(i, plan.rounds)}")
            prompt = lab.prompt(length, seed=i)[0].tolist()
            rounds.append([_start(str(lab.source.folder), prompt, addresses) for addresses in ways_in])
    columns = [column[1:] for column in zip(*rounds, strict=True)]
    wrong = sum(divergences(_tokens(column), _tokens(columns[0])) for column in columns[1:])
    return Report(
        "start",
        f"From the start of a process to its first token, {length} tokens of prompt",
        COLUMNS,
        tuple(_row(columns, peers) for peers in range(plan.peers + 1)),
        Figure("who", ("seconds",), "seconds"),
        problems=(f"{wrong} first tokens differ from the local model's",) if wrong else (),
    )


def _start(folder: str, prompt: Sequence[int], addresses: Sequence[str]) -> Start:
    command = [
        sys.executable,
        "-m",
        "swarm.bench.first_token",
        folder,
        ",".join(map(str, prompt)),
        *addresses,
    ]
    begun_s = time.perf_counter()
    try:
        done = subprocess.run(
            command,
            check=False,
            env=child_environment(os.environ, threads=1),
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
        )
    except subprocess.TimeoutExpired as exc:
        raise NodeError(f"a fresh process had no token after {TIMEOUT_S:g} s") from exc
    if done.returncode:
        words = done.stderr.strip().splitlines()[-1:] or ["it said nothing"]
        raise NodeError(f"a fresh process ended with status {done.returncode}: {words[0]}")
    found = FirstToken(**json.loads(done.stdout))
    return Start(found.loaded_s - begun_s, found.came_s - begun_s, found.token)


def _tokens(column: Sequence[Start]) -> list[list[int]]:
    return [[run.token] for run in column]


def _row(columns: Sequence[Sequence[Start]], peers: int) -> Row:
    """The row of a chain; without peers, of the local model."""
    local, own = ([run.first_s for run in columns[n]] for n in (0, peers))
    share = ratio(own, local) if peers else None
    return {
        "who": Turns.who(peers),
        "peers": peers,
        "seconds": median(own),
        "fastest_s": min(own),
        "ratio": share.median if share else None,
        "spread": share.spread if share else None,
        "ratios": share.rounds if share else None,
        "loaded_s": median(run.loaded_s for run in columns[peers]),
        "generate_ms": 1000 * median(run.first_s - run.loaded_s for run in columns[peers]),
    }
