"""Which waiting work runs next."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from swarm.peer.scheduler import DECODE_TOKENS, PATIENCE_S, Waiting, choose_next

queues = st.lists(
    st.builds(
        Waiting,
        session=st.sampled_from([b"a", b"b", b"c", b"d"]),
        tokens=st.integers(1, 64),
        arrived_s=st.floats(0, 3),
    ),
    min_size=1,
    max_size=12,
).map(lambda queue: sorted(queue, key=lambda work: work.arrived_s))


@given(queue=queues, now_s=st.floats(3, 6))
def test_a_session_runs_in_its_own_order(queue: list[Waiting], now_s: float) -> None:
    order = []
    while queue:
        order.append(queue.pop(choose_next(queue, now_s)))
    for session in (b"a", b"b", b"c", b"d"):
        arrivals = [work.arrived_s for work in order if work.session == session]
        assert arrivals == sorted(arrivals)


@given(queue=queues, now_s=st.floats(3, 6))
def test_whoever_ran_out_of_patience_goes_before_everybody_who_has_some(
    queue: list[Waiting], now_s: float
) -> None:
    chosen = queue[choose_next(queue, now_s)]
    heads = {work.session: work for work in reversed(queue)}.values()
    late = [work.arrived_s for work in heads if now_s - work.arrived_s > PATIENCE_S]
    if late:
        assert chosen.arrived_s == min(late)
    elif any(work.tokens <= DECODE_TOKENS for work in heads):
        assert chosen.tokens <= DECODE_TOKENS, "decode goes before prefill"


def test_decode_goes_first_and_prefill_is_not_starved() -> None:
    prefill = Waiting(b"long", 512, 0.0)
    now_s, turns = 0.0, 0
    while True:
        queue = sorted([prefill, Waiting(b"short", 1, now_s)], key=lambda work: work.arrived_s)
        if queue[choose_next(queue, now_s)] is prefill:
            break
        now_s, turns = now_s + 0.02, turns + 1
    assert turns > 20
    assert PATIENCE_S < now_s <= PATIENCE_S + 0.02


def test_equals_go_in_the_order_of_arrival() -> None:
    queue = [Waiting(b"a", 20, 0.1), Waiting(b"b", 900, 0.2), Waiting(b"c", 1, 0.3), Waiting(b"d", 1, 0.4)]
    order = []
    while queue:
        order.append(queue.pop(choose_next(queue, 0.5)).session)
    assert order == [b"c", b"d", b"a", b"b"]
