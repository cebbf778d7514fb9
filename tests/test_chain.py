"""Chain search: equal to brute force on every small swarm, and clear about why there is no chain."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import groupby, product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swarm.core.errors import SwarmUnavailable
from swarm.core.span import Span
from swarm.routing.chain import PREFILL_SHARE, QUEUE_PER_VISIT, Chain, ChainRequest, Hop, find_chain, price
from swarm.routing.latency import LatencyTable
from swarm.routing.pressure import ALL_OF_IT, STEEPNESS
from swarm.routing.records import PeerRecord, PeerState
from swarm.routing.view import SwarmView
from tests.records import make_record, make_view

N_LAYERS = 5
PEERS = ("a", "b", "c", "d")
REQUEST = ChainRequest(source="client", sink="client", links=LatencyTable(default_s=0.01))
SECONDS = st.sampled_from((0.0, 0.001, 0.01, 0.02, 0.1, 1.0))


@dataclass(frozen=True)
class TableLinks:
    """Directed link costs, at the mercy of no triangle inequality."""

    seconds: dict[tuple[str, str], float]

    def link_s(self, source: str, sink: str) -> float:
        return self.seconds.get((source, sink), 0.05)


def cost_s(hops: tuple[Hop, ...], view: SwarmView, request: ChainRequest) -> float:
    """The cost of a chain, written out as its definition says."""
    total, at = 0.0, request.source
    for hop in hops:
        record = view.by_id[hop.peer_id]
        used = len(hop.span) / len(record.span)
        full = min(request.tokens / record.free_tokens, 1.0) ** STEEPNESS * ALL_OF_IT
        wait_s = record.queue_s + full * len(record.span) * record.seconds_per_layer
        queue_s = wait_s * (QUEUE_PER_VISIT + (1 - QUEUE_PER_VISIT) * used)
        prefill_s = record.prefill_seconds_per_layer or PREFILL_SHARE * record.seconds_per_layer
        layer_s = record.seconds_per_layer + request.prompt_share * prefill_s
        rates = (record.upload_bytes_per_s, record.download_bytes_per_s)
        wire_s = sum((1 + request.prompt_share) * request.row_bytes / rate for rate in rates if rate)
        total += request.links.link_s(at, hop.peer_id) + wire_s + queue_s + len(hop.span) * layer_s
        at = hop.peer_id
    return total + request.links.link_s(at, request.sink)


def every_chain(view: SwarmView, span: Span, request: ChainRequest) -> Iterator[tuple[Hop, ...]]:
    """All valid chains: one usable peer for each layer, all of one precision, with room for every visit."""
    usable = [record for record in view.peers if not request.objection(record)]
    for assigned in product(usable, repeat=len(span)):
        pairs = list(zip(range(span.start, span.end), assigned, strict=True))
        if (
            any(layer not in record.span for layer, record in pairs)
            or len({r.precision for r in assigned}) > 1
            or (request.coding is not None and any(request.coding not in r.codings for r in assigned))
        ):
            continue
        runs = [(peer, [n for n, _ in run]) for peer, run in groupby(pairs, key=lambda pair: pair[1].peer_id)]
        visits = Counter(peer for peer, _ in runs)
        if all(view.by_id[peer].free_tokens >= n * request.tokens for peer, n in visits.items()):
            chain = tuple(Hop(peer, Span(layers[0], layers[-1] + 1)) for peer, layers in runs)
            if not any(inside(hop.span.start, request.together) for hop in chain[1:]):
                yield chain


def inside(layer: int, together: Span | None) -> bool:
    """Whether a cut before this layer would divide `together`."""
    return together is not None and together.start < layer < together.end


@st.composite
def spans(draw: st.DrawFn) -> Span:
    start = draw(st.integers(0, N_LAYERS - 1))
    return Span(start, draw(st.integers(start + 1, N_LAYERS)))


@st.composite
def swarms(draw: st.DrawFn, n_peers: int = 4) -> SwarmView:
    return make_view(*(draw(peers(peer_id)) for peer_id in PEERS[:n_peers]))


@st.composite
def peers(draw: st.DrawFn, peer_id: str) -> PeerRecord:
    span = draw(spans() | st.just(Span(0, N_LAYERS)))
    return make_record(
        peer_id,
        (span.start, span.end),
        N_LAYERS,
        seconds_per_layer=draw(SECONDS),
        prefill_seconds_per_layer=draw(st.sampled_from((0.0, 0.001, 0.01))),
        queue_s=draw(SECONDS),
        upload_bytes_per_s=draw(st.sampled_from((0.0, 1e4, 1e6))),
        download_bytes_per_s=draw(st.sampled_from((0.0, 1e5))),
        free_tokens=draw(st.sampled_from((10, 20, 30, 5, 0))),
        precision=draw(st.sampled_from(("float32", "float32", "bfloat16"))),
        codings=draw(st.sampled_from(((), ("int8",), ("int8",)))),
        state=draw(st.sampled_from((PeerState.ONLINE,) * 6 + (PeerState.JOINING, PeerState.DRAINING))),
    )


@st.composite
def requests(draw: st.DrawFn) -> ChainRequest:
    ends = st.sampled_from((*PEERS, "client"))
    pairs = st.tuples(ends, ends)
    return ChainRequest(
        source=draw(ends),
        sink=draw(ends),
        links=TableLinks(draw(st.dictionaries(pairs, SECONDS, max_size=25))),
        tokens=draw(st.sampled_from((10, 5, 1))),
        precision=draw(st.sampled_from((None, None, "float32", "bfloat16", "int8"))),
        coding=draw(st.sampled_from((None, None, "int8"))),
        prompt_share=draw(st.sampled_from((0.0, 0.0, 0.5, 20.0))),
        row_bytes=draw(st.sampled_from((0, 0, 4096))),
        avoid=frozenset(draw(st.sets(st.sampled_from(PEERS), max_size=1))),
        together=draw(st.sampled_from((None, None, Span(1, 3), Span(2, 5), Span(0, 2)))),
    )


def check_against_brute_force(view: SwarmView, span: Span, request: ChainRequest) -> Chain | None:
    chains = list(every_chain(view, span, request))
    if not chains:
        with pytest.raises(SwarmUnavailable, match=r"layers \d+:\d+"):
            find_chain(view, span, request)
        return None
    best = find_chain(view, span, request)
    assert best.hops in chains
    assert best.cost_s == pytest.approx(cost_s(best.hops, view, request), abs=1e-9)
    assert best.cost_s == pytest.approx(min(cost_s(chain, view, request) for chain in chains), abs=1e-6)
    assert {view.by_id[hop.peer_id].precision for hop in best.hops} == {best.precision}
    return best


@pytest.mark.slow
@settings(max_examples=300, deadline=None, derandomize=True)
@given(swarms(), spans(), requests())
def test_search_equals_brute_force(view: SwarmView, span: Span, request: ChainRequest) -> None:
    check_against_brute_force(view, span, request)


@st.composite
def nests(draw: st.DrawFn) -> SwarmView:
    """Fast peers inside the spans of slow ones, so that coming back to a slow one pays if it has the room."""
    inside = ((0, 5), (1, 4), (0, 5), (2, 3))
    speeds = (0.03, 0.001, 0.05, 0.0)
    return make_view(
        *(
            make_record(
                peer,
                span,
                N_LAYERS,
                seconds_per_layer=speed * draw(st.sampled_from((0.5, 1, 2))),
                queue_s=draw(st.sampled_from((0.0, 0.002, 0.05))),
                free_tokens=draw(st.sampled_from((1, 1, 1, 2))),
            )
            for peer, span, speed in zip(PEERS, inside, speeds, strict=True)
        )
    )


@pytest.mark.slow
@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    nests(), st.dictionaries(st.tuples(st.sampled_from(PEERS), st.sampled_from(PEERS)), SECONDS, max_size=8)
)
def test_search_equals_brute_force_where_coming_back_pays(
    view: SwarmView, slow_links: dict[tuple[str, str], float]
) -> None:
    links = TableLinks({(a, b): 0.0 for a in PEERS for b in PEERS} | slow_links)
    assert check_against_brute_force(view, Span(0, N_LAYERS), replace(REQUEST, links=links))


@settings(max_examples=50, deadline=None, derandomize=True)
@given(st.lists(st.tuples(st.sampled_from(PEERS), st.sampled_from(PEERS), SECONDS), max_size=20))
def test_table_and_its_matrix_give_the_same_chain(observed: list[tuple[str, str, float]]) -> None:
    table = LatencyTable()
    for source, sink, seconds in observed:
        table.observe(source, sink, seconds)
    view = make_view(*(make_record(p, (i, i + 9), seconds_per_layer=0.01 * i) for i, p in enumerate(PEERS)))
    plain = TableLinks({(a, b): table.link_s(a, b) for a, b in product((*PEERS, "client"), repeat=2)})
    request = ChainRequest("client", "client", table)
    assert find_chain(view, Span(0, 12), request) == find_chain(
        view, Span(0, 12), replace(request, links=plain)
    )


def test_one_peer_with_all_layers_is_a_chain_of_one_hop() -> None:
    view = make_view(make_record("a", (0, 12), seconds_per_layer=0.001, queue_s=0.005))
    chain = find_chain(view, Span(0, 12), REQUEST)
    assert chain.hops == (Hop("a", Span(0, 12)),)
    assert chain.cost_s == pytest.approx(0.01 + 0.005 + 12 * 0.001 + 0.01)


def test_a_chain_leaves_a_slow_peer_as_early_as_the_fast_one_starts() -> None:
    view = make_view(
        make_record("slow", (0, 8), seconds_per_layer=0.1),
        make_record("fast", (3, 12), seconds_per_layer=0.001),
    )
    assert find_chain(view, Span(0, 12), REQUEST).hops == (Hop("slow", Span(0, 3)), Hop("fast", Span(3, 12)))


def test_a_gap_is_filled_between_two_survivors() -> None:
    view = make_view(make_record("left", (0, 12)), make_record("right", (0, 12)))
    links = TableLinks({("before", "right"): 0.001, ("right", "after"): 0.001, ("client", "left"): 0.0})
    gap = ChainRequest(source="before", sink="after", links=links)
    assert find_chain(view, Span(4, 8), gap).hops == (Hop("right", Span(4, 8)),)


def test_equal_costs_take_the_fewest_hops_and_then_the_first_peer() -> None:
    halves = [make_record("a1", (0, 6)), make_record("a2", (6, 12))]
    view = make_view(*halves, make_record("c", (0, 12)), make_record("b", (0, 12)))
    free = replace(REQUEST, links=LatencyTable(default_s=0.0))
    assert find_chain(view, Span(0, 12), free).hops == (Hop("b", Span(0, 12)),)


def test_coming_back_to_a_peer_needs_room_for_both_visits() -> None:
    fast = make_record("fast", (4, 8), seconds_per_layer=0.0)
    slow = make_record("slow", (0, 12), seconds_per_layer=1.0, free_tokens=199)
    assert len(find_chain(make_view(fast, slow), Span(0, 12), replace(REQUEST, tokens=99)).hops) == 3
    chain = find_chain(make_view(fast, slow), Span(0, 12), replace(REQUEST, tokens=100))
    assert chain.hops == (Hop("slow", Span(0, 12)),)


def test_without_a_wish_the_precision_with_the_cheapest_chain_is_taken() -> None:
    view = make_view(
        make_record("a", (0, 12), seconds_per_layer=0.02, precision="float32"),
        make_record("b", (0, 12), seconds_per_layer=0.01, precision="bfloat16"),
    )
    assert find_chain(view, Span(0, 12), REQUEST).precision == "bfloat16"
    assert find_chain(view, Span(0, 12), replace(REQUEST, precision="float32")).precision == "float32"


NEWER = make_record("z", (0, 12), protocol=2, name="lab")
REASONS = [
    ([], {}, "layers 0:12 are served by nobody"),
    ([make_record("a", (0, 4)), make_record("b", (8, 12))], {}, "layers 4:8 are served by nobody"),
    (
        [make_record("a", (2, 4)), make_record("b", (8, 12))],
        {},
        "layers 0:2 are served by nobody; layers 4:8 are served by nobody",
    ),
    (
        [make_record("a", (0, 12), free_tokens=9), make_record("b", (0, 12), free_tokens=0)],
        {"tokens": 10},
        "layers 0:12: 2 peers, all full (10 token rows needed)",
    ),
    ([make_record("a", (0, 12))], {"avoid": frozenset({"a"})}, "layers 0:12: 1 peer, avoided after failures"),
    (
        [make_record("a", (0, 12), state="draining"), make_record("b", (0, 6), state="joining")],
        {},
        "layers 0:6: 2 peers, 1 draining, 1 joining; layers 6:12: 1 peer, draining",
    ),
    ([make_record("a", (0, 12))], {"precision": "int8"}, "layers 0:12: 1 peer, not in int8"),
    (
        [make_record("a", (0, 6), codings=("int8",)), make_record("b", (0, 12), codings=("int4",))],
        {"coding": "int8"},
        "layers 6:12: 1 peer, without int8 on the wire",
    ),
    (
        [make_record("a", (0, 6)), make_record("b", (6, 12), precision="int8")],
        {},
        "no single precision covers layers 0:12: float32 lacks layers 6:12, int8 lacks layers 0:6",
    ),
    (
        [NEWER],
        {},
        "layers 0:12 are served by nobody (not used: lab speaks protocol version 2, this node speaks 1)",
    ),
]


@pytest.mark.parametrize(("records", "changes", "message"), REASONS, ids=[message for *_, message in REASONS])
def test_the_error_names_the_layers_and_the_reason(
    records: list[PeerRecord], changes: dict[str, object], message: str
) -> None:
    with pytest.raises(SwarmUnavailable) as caught:
        find_chain(make_view(*records), Span(0, 12), replace(REQUEST, **changes))  # type: ignore[arg-type]
    assert str(caught.value) == message


def test_a_chain_changes_peers_only_outside_of_layers_that_stay_together() -> None:
    view = make_view(
        make_record("front", (0, 6), 8, seconds_per_layer=0.1),
        make_record("back", (2, 8), 8, seconds_per_layer=0.2),
        make_record("cutting", (4, 8), 8, seconds_per_layer=0.0001),
    )
    assert [str(hop.span) for hop in find_chain(view, Span(0, 8), REQUEST).hops] == ["0:4", "4:8"]
    held = find_chain(view, Span(0, 8), replace(REQUEST, together=Span(2, 6))).hops
    assert held == (Hop("front", Span(0, 6)), Hop("back", Span(6, 8)))


def test_a_long_prompt_goes_where_prompts_are_fast_and_a_long_answer_where_tokens_are() -> None:
    talker = make_record("talker", (0, 12), seconds_per_layer=0.01, prefill_seconds_per_layer=0.009)
    reader = make_record("reader", (0, 12), seconds_per_layer=0.02, prefill_seconds_per_layer=0.001)
    view = make_view(talker, reader)
    for share, chosen in ((0.1, "talker"), (100.0, "reader")):
        chain = find_chain(view, Span(0, 12), replace(REQUEST, prompt_share=share))
        assert chain.hops[0].peer_id == chosen


def test_a_slow_uplink_is_left_to_those_who_send_little() -> None:
    near = make_record("near", (0, 12), seconds_per_layer=0.01, upload_bytes_per_s=1e6)
    far = make_record(
        "far", (0, 12), seconds_per_layer=0.012, upload_bytes_per_s=1e8, download_bytes_per_s=1e9
    )
    view = make_view(near, far)
    for row_bytes, share, chosen in ((10_000, 0.0, "near"), (100_000, 0.0, "far"), (10_000, 100.0, "far")):
        request = replace(REQUEST, row_bytes=row_bytes, prompt_share=share)
        chain = find_chain(view, Span(0, 12), request)
        assert chain.hops[0].peer_id == chosen
        assert price(chain.hops[0], view.by_id[chosen], request) == pytest.approx(
            price(chain.hops[0], view.by_id[chosen], REQUEST) + request.wire_s(view.by_id[chosen])
        )


def test_who_has_not_measured_prompts_is_judged_by_decoding() -> None:
    old = make_record("old", (0, 12), seconds_per_layer=0.01)
    request = replace(REQUEST, prompt_share=100.0)
    assert request.prefill_layer_s(old) == 0.01 * PREFILL_SHARE
    measured = old.model_copy(update={"prefill_seconds_per_layer": 0.001})
    assert request.prefill_layer_s(measured) == 0.001
    straggler = replace(request, measured={"old": 1.0})
    assert straggler.prefill_layer_s(measured) == PREFILL_SHARE, "who is slow is slow at prompts, too"
