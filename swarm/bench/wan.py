"""Time per token when client and peers are far apart, beside what the speed of the network allows.

The bound: a token crosses every link of the chain once, peers + 1 of them, and its layers are computed somewhere, which
takes what it takes the local model.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from statistics import median

from swarm.bench.lab import Lab
from swarm.bench.long_links import LongLinks, netem, relayed
from swarm.bench.namespaces import why_not
from swarm.bench.plan import Plan
from swarm.bench.ratios import ratio
from swarm.bench.report import Column, Figure, Report, Row
from swarm.bench.speculation import LOOPS, speculation
from swarm.bench.timed import Timed, timed
from swarm.bench.turns import differences, round_name
from swarm.core.errors import ConfigError

PROMPT = 16
_FLOAT_BYTES = 4
COLUMNS = (
    Column("who", "wan"),
    Column("step_ms", "ms/token", 1),
    Column("bound_ms", "bound, ms", 1),
    Column("ratio", "x bound"),
    Column("spread", "rounds"),
    Column("tokens_per_s", "tokens/s", 2),
    Column("first_ms", "first token, ms", 0),
    Column("delayed_kb", "KB a token", 1),
    Column("gain", "x faster", 2),
)
_Builder = Callable[[Lab, int, float], AbstractContextManager[LongLinks]]


def wan(lab: Lab, plan: Plan) -> Report:
    """Chains of 1 to N peers, one after the other; the local model takes turns with each."""
    build, how = choose(plan.network)
    rows: list[Row] = []
    problems: list[str] = []
    for peers in range(1, plan.peers + 1):
        with build(lab, peers, plan.delay_s) as links:
            row, found = _measure(lab, plan, peers, links)
            rows.append(row)
            problems += found
            if peers == plan.peers:
                more, found = speculation(lab, plan, links)
                rows += more
                problems += found
    return Report(
        "wan",
        f"Decode of {plan.tokens} tokens, {1000 * plan.delay_s:g} ms one way between any two of client and peers",
        COLUMNS,
        tuple(rows),
        Figure("who", ("step_ms",), "ms/token", reference="bound_ms"),
        notes=("Bound: one-way delays of all links of the chain + the local model's time.", LOOPS, how),
        problems=tuple(dict.fromkeys(problems)),
    )


def choose(network: str) -> tuple[_Builder, str]:
    """How long links are made, and a line that says so.

    Raises:
        ConfigError: netem was asked for and cannot be had.
    """
    reason = why_not() if network != "relay" else "as asked"
    if reason is None:
        return netem, "Delays by tc netem between network namespaces."
    if network == "netem":
        raise ConfigError(f"--network netem: {reason}; use --network relay")
    return relayed, f"Delays by a TCP relay on loopback ({reason})."


def _measure(lab: Lab, plan: Plan, peers: int, links: LongLinks) -> tuple[Row, list[str]]:
    local: list[Timed] = []
    remote: list[Timed] = []
    delayed: list[int] = []
    for i in range(plan.rounds + 1):
        lab.tell(f"wan, {peers} peers: {round_name(i, plan.rounds)}")
        ids = lab.prompt(plan.prompt or PROMPT, seed=i)
        local.append(timed(lab.local, ids, plan.tokens))
        before = links.crossed() if links.crossed else 0
        remote.append(timed(links.model, ids, plan.tokens))
        delayed.append(links.crossed() - before if links.crossed else 0)
    problems = differences(remote, local)
    hidden = lab.local.get_input_embeddings().embedding_dim
    if links.crossed and min(delayed) < carried_bytes(peers, plan.prompt or PROMPT, plan.tokens, hidden):
        problems.append("traffic went past the relay: fewer bytes crossed it than the chain's links carried")
    row = _row(plan, peers, local[1:], remote[1:])
    kilobytes = median(delayed[1:]) / plan.tokens / 1000
    return {**row, "delayed_kb": kilobytes if links.crossed else None}, problems


def carried_bytes(peers: int, prompt: int, tokens: int, hidden: int) -> int:
    """What the links of a chain carry at least: each position to every hop, and back from the last what has a token."""
    return (peers * (prompt + tokens - 1) + tokens) * hidden * _FLOAT_BYTES


def _row(plan: Plan, peers: int, local: list[Timed], remote: list[Timed]) -> Row:
    bounds = [(peers + 1) * plan.delay_s + run.step_s for run in local]
    steps = [run.step_s for run in remote]
    share = ratio(steps, bounds)
    return {
        "who": f"{peers} peer{'s' * (peers > 1)}",
        "peers": peers,
        "step_ms": 1000 * median(steps),
        "bound_ms": 1000 * median(bounds),
        "local_ms": 1000 * median(run.step_s for run in local),
        "ratio": share.median,
        "spread": share.spread,
        "ratios": share.rounds,
        "tokens_per_s": 1 / median(steps),
        "first_ms": 1000 * median(run.first_s for run in remote),
    }
