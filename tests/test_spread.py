"""Sessions spread over chains that cost nearly the same, and never pay more than the tolerance for it."""

from __future__ import annotations

import random
import re
from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swarm.core.errors import SwarmUnavailable
from swarm.core.span import Span
from swarm.routing.chain import ChainRequest, find_chain
from swarm.routing.latency import LatencyTable
from swarm.routing.opened import OpenedSessions
from swarm.routing.records import PeerRecord
from swarm.routing.spread import TOLERANCE, pick_chain
from swarm.routing.view import SwarmView
from swarm.shards.step import Step, StepTensors
from tests.in_process import Lab, Options
from tests.records import make_record, make_view
from tests.shard_lab import hidden
from tests.test_chain import cost_s, every_chain, requests, spans, swarms

WHOLE = Span(0, 12)
CLIENTS, REPLICAS = 400, 8


def clients(view: SwarmView, links: LatencyTable | None = None) -> list[tuple[str, ...]]:
    """Which peers each of many clients takes that all see this."""
    request = ChainRequest("client", "client", links or LatencyTable())
    dice = random.Random(1)
    return [
        tuple(hop.peer_id for hop in pick_chain(view, WHOLE, request, dice.random).hops)
        for _ in range(CLIENTS)
    ]


def replicas(count: int = REPLICAS) -> list[PeerRecord]:
    return [make_record(f"peer{n}", (0, 12), seconds_per_layer=0.01) for n in range(count)]


@pytest.mark.slow
@settings(max_examples=300, deadline=None)
@given(swarms(), spans(), requests(), st.randoms(use_true_random=False))
def test_no_draw_makes_a_session_pay_more_than_the_tolerance(
    view: SwarmView, span: Span, request: ChainRequest, dice: random.Random
) -> None:
    try:
        best = find_chain(view, span, request)
    except SwarmUnavailable as error:
        with pytest.raises(SwarmUnavailable, match=re.escape(str(error))):
            pick_chain(view, span, request, dice.random)
        return
    chain = pick_chain(view, span, request, dice.random)
    assert chain.hops in set(every_chain(view, span, request))
    assert chain.cost_s == pytest.approx(cost_s(chain.hops, view, request))
    assert chain.cost_s <= best.cost_s * (1 + TOLERANCE) + 1e-7


@pytest.mark.slow
def test_clients_with_the_same_stale_picture_share_equal_replicas() -> None:
    view = make_view(*replicas())
    alone = find_chain(view, WHOLE, ChainRequest("client", "client", LatencyTable()))
    assert alone.hops[0].peer_id == "peer0", "the search itself would send everybody there"
    shares = Counter(clients(view))
    assert len(shares) == REPLICAS
    assert max(shares.values()) <= 1.6 * CLIENTS / REPLICAS


@pytest.mark.slow
def test_every_stage_of_a_chain_is_shared() -> None:
    stages = [
        make_record(f"{start}{n}", (start, start + 4), seconds_per_layer=0.01)
        for start in (0, 4, 8)
        for n in range(3)
    ]
    chosen = clients(make_view(*stages))
    for stage in range(3):
        shares = Counter(peers[stage] for peers in chosen)
        assert len(shares) == 3
        assert max(shares.values()) <= 1.3 * CLIENTS / 3


@pytest.mark.slow
def test_of_two_candidates_the_one_with_less_to_do_is_taken() -> None:
    """With the counts of the session before, nobody gets much more than others: two choices, not one."""
    request, dice, sessions = (
        ChainRequest("client", "client", LatencyTable()),
        random.Random(1),
        Counter[str](),
    )
    for _ in range(10 * REPLICAS):
        view = make_view(*(r.model_copy(update={"sessions": sessions[r.peer_id]}) for r in replicas()))
        sessions[pick_chain(view, WHOLE, request, dice.random).hops[0].peer_id] += 1
    assert max(sessions.values()) - min(sessions.values()) <= 4


@pytest.mark.slow
def test_a_clearly_slower_peer_gets_nothing_of_it() -> None:
    slow = make_record("slow", (0, 12), seconds_per_layer=0.01 * (1 + 2 * TOLERANCE))
    links = LatencyTable(default_s=0.0)
    assert all(peers != ("slow",) for peers in clients(make_view(*replicas(2), slow), links))


def test_ones_own_sessions_count_until_the_records_do() -> None:
    first, second = replicas(2)
    records = {"peer0": first, "peer1": second}
    chain = find_chain(make_view(first), WHOLE, ChainRequest("client", "client", LatencyTable()))
    opened = OpenedSessions()
    for _ in range(3):
        opened.add(chain, records)
    assert opened.counts(records) == {"peer0": 3}
    request, dice = ChainRequest("client", "client", LatencyTable()), random.Random(1)
    chosen = Counter(
        pick_chain(make_view(first, second), WHOLE, request, dice.random, opened.counts(records))
        .hops[0]
        .peer_id
        for _ in range(100)
    )
    assert chosen["peer1"] > 2 * chosen["peer0"] > 0, "drawn twice, the busy one is still taken"
    newer = {**records, "peer0": make_record("peer0", (0, 12), issued_at=first.issued_at + 1)}
    assert opened.counts(newer) == {}
    opened.add(replace(chain, cost_s=0.0), newer)
    assert opened.counts(newer) == {"peer0": 1}


@pytest.mark.slow
def test_the_sessions_of_one_client_go_to_all_of_equal_peers() -> None:
    with Lab(options=Options(draw=random.Random(1).random)) as lab:
        for name in ("A", "B", "C"):
            lab.serve(name, 0, 6)
        for _ in range(12):
            lab.open().step(Step(0, 0, StepTensors(hidden(1))), keep_last=1)
        held = [len(peer.service.sessions) for peer in lab.peers.values()]
        assert sum(held) == 12
        assert max(held) - min(held) <= 2, "its own sessions count before the records say so"
        for session in lab.sessions:
            session.close()
