"""How long generation stands still when a hop dies, hangs or leaves: the longest gap between two tokens, per hop.

Every span is served twice. The hop in use is killed (SIGKILL), stopped (SIGSTOP) or asked to leave (SIGTERM) in the
middle, its twin takes over; one that leaves hands its state to the twin, and nothing is computed again.
Beside the stall stands what recomputing the past in the lost layers costs at least: their prefill, by the local model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from statistics import median

from torch import Tensor

from swarm.bench.lab import SERVE_OPTIONS, Lab, cut
from swarm.bench.local_swarm import LocalPeer, LocalSwarm
from swarm.bench.plan import Plan
from swarm.bench.ratios import longest_gap, stall
from swarm.bench.report import Column, Figure, Report, Row
from swarm.bench.timed import Timed, timed
from swarm.bench.turns import differences, round_name
from swarm.client.model import SwarmModel
from swarm.core.errors import SwarmError
from swarm.core.span import Span

PROMPT = 512
COLUMNS = (
    Column("who", "failover"),
    Column("stall_s", "stall, s", 3),
    Column("longest_s", "longest", 3),
    Column("gap_ratio", "longest gap / median gap", 1),
    Column("prefill_s", "lost layers' prefill, s", 3),
    Column("ratio", "stall / prefill"),
)
_WAYS = {"killed": LocalSwarm.kill, "hung": LocalSwarm.suspend, "left": LocalSwarm.ask_to_leave}
LEAVE_S = 30.0


class Twins:
    """A swarm in which every span is served twice."""

    def __init__(self, lab: Lab, swarm: LocalSwarm, peers: int) -> None:
        self._lab = lab
        self.swarm = swarm
        self._spans = cut(lab.layers, peers)
        way_in = swarm.start("way-in", "bootstrap")
        self._addresses = swarm.wait_ready(way_in)
        self._serving: list[tuple[Span, LocalPeer]] = []
        self._started = 0

    @contextmanager
    def complete(self) -> Iterator[SwarmModel]:
        """Start what is missing, and join as a client that knows every twin; afterwards resume who was suspended."""
        self._serving = [(span, peer) for span, peer in self._serving if peer.running]
        have = [span for span, _ in self._serving]
        missing = [span for span in self._spans for _ in range(2 - have.count(span))]
        self._serving += [(span, self._start(span)) for span in missing]
        for _, peer in self._serving:
            self.swarm.wait_ready(peer)
        with self._lab.client(self._addresses[:1]) as model:
            yield model
        for _, peer in self._serving:
            if peer.running:
                self.swarm.resume(peer)

    def hop(self, model: SwarmModel, position: int) -> LocalPeer:
        """The peer that the running session uses at this position of its chain."""
        if model.chain is None:
            raise SwarmError("the session ended before a hop could be struck: give more --tokens")
        wanted = model.chain.hops[position].peer_id
        return next(peer for _, peer in self._serving if peer.peer_id == wanted)

    def _start(self, span: Span) -> LocalPeer:
        self._started += 1
        name, folder = f"peer-{self._started}", str(self._lab.source.folder)
        return self.swarm.serve(name, folder, str(span), self._addresses[:1], *SERVE_OPTIONS)


def failover(lab: Lab, plan: Plan) -> Report:
    """Every hop is struck in both ways once a round, each time in a new session with a new prompt."""
    length, spans = plan.prompt or PROMPT, cut(lab.layers, plan.peers)
    cases = [(way, position) for way in _WAYS for position in range(plan.peers)]
    struck: dict[tuple[str, int], list[Timed]] = {case: [] for case in cases}
    local: dict[tuple[str, int], list[Timed]] = {case: [] for case in cases}
    with LocalSwarm() as swarm:
        twins = Twins(lab, swarm, plan.peers)
        for i in range(plan.rounds):  # nothing warms up: every strike meets a fresh session, as in life
            for n, (way, position) in enumerate(cases):
                lab.tell(f"failover: {round_name(i + 1, plan.rounds)}, hop {position + 1} {way}")
                ids = lab.prompt(length, seed=i * len(cases) + n)
                local[way, position].append(timed(lab.local, ids, plan.tokens))
                struck[way, position].append(_strike(twins, (way, position), ids, plan.tokens))
    rows = []
    for case in cases:
        share = len(spans[case[1]]) / lab.layers
        rows.append(_row(case, struck[case], [share * run.first_s for run in local[case]]))
    problems = [line for case in cases for line in differences(struck[case], local[case])]
    return Report(
        "failover",
        f"Stall when one of {plan.peers} hops is lost or leaves after {length} tokens and {plan.tokens // 2} new ones",
        COLUMNS,
        tuple(rows),
        Figure("who", ("stall_s",), "stall, seconds", reference="prefill_s"),
        problems=tuple(dict.fromkeys(problems)),
    )


def _strike(twins: Twins, case: tuple[str, int], ids: Tensor, tokens: int) -> Timed:
    way, position = case
    act: Callable[[LocalSwarm, LocalPeer], None] = _WAYS[way]
    struck: list[LocalPeer] = []

    def strike() -> None:
        struck.append(twins.hop(model, position))
        act(twins.swarm, struck[0])

    with twins.complete() as model:
        run = timed(model, ids, tokens, at=(tokens // 2, strike))
        stats = model.stats
        noticed = stats.handovers and not stats.failovers if way == "left" else stats.failovers
        if not noticed:
            raise SwarmError(f"hop {position + 1} was {way}, and no session noticed: give more --tokens")
    if way == "left":
        struck[0].process.wait(LEAVE_S)
    return run


def _row(case: tuple[str, int], struck: list[Timed], prefills: list[float]) -> Row:
    way, position = case
    stalls = [stall(run.times) for run in struck]
    return {
        "who": f"hop {position + 1} {way}",
        "way": way,
        "hop": position + 1,
        "stall_s": median(stalls),
        "longest_s": max(stalls),
        "gap_ratio": median(longest_gap(run.times) for run in struck),
        "stalls_s": tuple(stalls),
        "prefill_s": median(prefills),
        "ratio": median(a / b for a, b in zip(stalls, prefills, strict=True)),
    }
