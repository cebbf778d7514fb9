"""Which waiting work runs next."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarm.peer.absences import Absences
from swarm.peer.pace import Pace
from swarm.peer.prefill_share import (
    HOPS,
    JOINT_S,
    LATELY_S,
    LEAST_WHOLE,
    LONG_TOKENS,
    RECENTLY_S,
    STRETCH,
    WHOLE_S,
    PrefillShare,
)
from swarm.peer.scheduler import (
    DECODE_TOKENS,
    LEAST_PORTION,
    LEAST_WAIT_S,
    PATIENCE_S,
    GroupSize,
    Portion,
    Waiting,
    choose_batch,
    choose_next,
    choose_one,
    group_size,
    wait_s,
)

queues = st.lists(
    st.builds(
        Waiting,
        session=st.sampled_from([b"a", b"b", b"c", b"d"]),
        tokens=st.integers(1, 64),
        arrived_s=st.floats(0, 3),
        divisible=st.booleans(),
        ran_s=st.none() | st.floats(3, 4),
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
    heads = heads_of(queue)
    late = [work.idle_since_s for work in heads if now_s - work.idle_since_s > PATIENCE_S]
    if late:
        assert chosen.idle_since_s == min(late)
    elif any(work.tokens <= DECODE_TOKENS for work in heads):
        assert chosen.is_short or chosen.ran_s is not None, "decode goes before a prefill that has not begun"


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


def test_one_by_one_a_prefill_that_has_begun_takes_turns_with_decode_steps() -> None:
    prefill = Waiting(b"long", 512, 0.0, divisible=True, ran_s=9.0)
    before, after = Waiting(b"a", 1, 8.9), Waiting(b"b", 1, 9.1)
    assert choose_next([prefill, before, after], 9.2) == 1
    assert choose_next([prefill, after], 9.2) == 0
    assert choose_next([prefill._replace(ran_s=9.2), after], 9.3) == 1
    many = [Waiting(bytes([n]), 1, 9.1 + n / 100) for n in range(50)]
    assert choose_next([prefill, *many], 20.0) == 0, "nor do many keep it waiting for ever"


def test_equals_go_in_the_order_of_arrival() -> None:
    queue = [Waiting(b"a", 20, 0.1), Waiting(b"b", 900, 0.2), Waiting(b"c", 1, 0.3), Waiting(b"d", 1, 0.4)]
    order = []
    while queue:
        order.append(queue.pop(choose_next(queue, 0.5)).session)
    assert order == [b"c", b"d", b"a", b"b"]


# batches --------------------------------------------------------------------------------------------------------------

BUDGET = 60


def heads_of(queue: list[Waiting]) -> list[Waiting]:
    """The oldest work of each session."""
    return list({work.session: work for work in reversed(queue)}.values())


def batch_of(queue: list[Waiting], now_s: float, budget: int = BUDGET) -> list[Waiting]:
    return [queue[portion.index] for portion in choose_batch(queue, now_s, budget)]


@given(queue=queues, now_s=st.floats(3, 6))
def test_a_batch_holds_the_oldest_work_of_each_session_at_most_once(
    queue: list[Waiting], now_s: float
) -> None:
    batch, heads = batch_of(queue, now_s), heads_of(queue)
    assert batch
    assert len({work.session for work in batch}) == len(batch)
    assert all(work in heads for work in batch)


@given(queue=queues, now_s=st.floats(3, 6))
def test_all_decode_steps_go_along(queue: list[Waiting], now_s: float) -> None:
    batch = batch_of(queue, now_s)
    assert all(work in batch for work in heads_of(queue) if work.tokens <= DECODE_TOKENS)


@given(queue=queues, now_s=st.floats(0, 6), budget=st.integers(LEAST_PORTION, 100))
def test_at_most_one_prefill_is_beyond_the_budget(queue: list[Waiting], now_s: float, budget: int) -> None:
    long = [work for work in batch_of(queue, now_s, budget) if work.tokens > DECODE_TOKENS]
    if sum(work.tokens for work in long if not work.divisible) > budget:
        assert len(long) <= 1


@given(queue=queues, budget=st.integers(LEAST_PORTION, 100))
def test_everything_runs_in_the_end(queue: list[Waiting], budget: int) -> None:
    left, turns = list(queue), 0
    while left:
        ran = {portion.index: portion.tokens for portion in choose_batch(left, 10.0, budget)}
        rest = [work._replace(tokens=work.tokens - ran.get(index, 0)) for index, work in enumerate(left)]
        left = [work for work in rest if work.tokens]
        turns += 1
    assert turns <= sum(-(-work.tokens // LEAST_PORTION) for work in queue)


def test_prefills_fill_the_budget_the_fewest_rows_first() -> None:
    queue = [
        Waiting(b"a", 40, 0.0),
        Waiting(b"b", 1, 0.1),
        Waiting(b"c", 19, 0.2),
        Waiting(b"d", 30, 0.3),
        Waiting(b"e", 19, 0.4),
    ]
    assert [work.session for work in batch_of(queue, 0.45)] == [b"b", b"c", b"e"]
    assert [work.session for work in batch_of(queue, 0.55)] == [b"b", b"c", b"a"], "a is late"


@given(queue=queues, now_s=st.floats(0, 6), budget=st.integers(LEAST_PORTION, 100))
def test_divisible_prefills_stay_within_the_budget(queue: list[Waiting], now_s: float, budget: int) -> None:
    queue = [work._replace(divisible=True) for work in queue]
    portions = choose_batch(queue, now_s, budget)
    long = [portion for portion in portions if not queue[portion.index].is_short]
    assert sum(portion.tokens for portion in long) <= max(budget, 2 * LEAST_PORTION)
    assert all(0 < portion.tokens <= queue[portion.index].tokens for portion in portions)
    assert bool(long) == any(not work.is_short for work in heads_of(queue)), "it goes on beside decode steps"


@given(queue=queues, now_s=st.floats(3, 6), budget=st.integers(LEAST_PORTION, 100))
def test_the_budget_is_used(queue: list[Waiting], now_s: float, budget: int) -> None:
    queue = [work._replace(divisible=True) for work in queue]
    portions = choose_batch(queue, now_s, budget)
    ran = sum(portion.tokens for portion in portions if not queue[portion.index].is_short)
    waits = sum(work.tokens for work in heads_of(queue) if not work.is_short)
    assert ran > budget - LEAST_PORTION or ran == waits


def test_a_short_prompt_does_not_wait_for_a_long_one_that_came_before() -> None:
    long, short = Waiting(b"long", 1024, 0.0, True), Waiting(b"short", 16, 9.0, True)
    assert choose_batch([long, short], 0.4, 16) == [Portion(1, 16)]
    assert choose_batch([long, short], 9.1, 16) == [Portion(1, 8), Portion(0, 8)], "who is late has half"
    assert choose_batch([long, short], 9.1, LEAST_PORTION) == [Portion(1, 8), Portion(0, 8)]
    assert choose_batch([long, short], 9.1, 100) == [Portion(1, 16), Portion(0, 84)]


@given(
    budget=st.integers(LEAST_PORTION, 100),
    lengths=st.lists(st.integers(DECODE_TOKENS + 1, 60), max_size=9),
    left=st.integers(60, 1000),
)
def test_half_of_the_budget_is_for_who_is_late(budget: int, lengths: list[int], left: int) -> None:
    short = [Waiting(bytes([n]), tokens, 8.9, True) for n, tokens in enumerate(lengths)]
    portions = choose_batch([Waiting(b"long", left, 0.0, True), *short], 9.0, budget)
    ran = {portion.index: portion.tokens for portion in portions}
    assert ran[0] >= min(left, budget // 2)
    assert len(ran) > 1 or not short, "nor does it take all"


def test_a_long_prompt_goes_in_portions_beside_decode_steps() -> None:
    queue = [Waiting(b"long", 512, 0.0, divisible=True), Waiting(b"short", 1, 0.1)]
    assert choose_batch(queue, 0.2, 24) == [Portion(1, 1), Portion(0, 24)]
    assert choose_one(queue[:1], 0.2, 24) == [Portion(0, 24)]


# how much -------------------------------------------------------------------------------------------------------------


def test_prompts_have_the_whole_budget_while_nobody_else_decodes() -> None:
    share = PrefillShare(2048)
    assert share.budget(b"long", 0.0) == 2048
    share.ran(1, [b"long"], True, 0.02, 1.0)
    assert share.budget(b"long", 1.1) == 2048, "its own decode steps do not count"
    share.ran(1, [b"other"], True, 0.02, 1.0)
    assert share.budget(b"long", 1.1) == LEAST_PORTION, "nothing is known of prompts yet"
    assert share.budget(b"long", 1.0 + RECENTLY_S + HOPS * 0.02) == 2048


def test_what_decode_steps_take_is_forgotten_when_none_ran_for_long() -> None:
    share = PrefillShare(2048)
    assert share.decode_lately_s(0.0) is None
    share.ran(1, [b"a"], True, 0.02, 5.0)
    assert share.decode_lately_s(5.0 + 0.9 * LATELY_S) == 0.02
    assert share.decode_lately_s(5.0 + LATELY_S) is None


def test_what_a_token_of_a_prompt_takes_is_learnt_from_long_prompts_alone() -> None:
    share = PrefillShare(2048)
    share.ran(LONG_TOKENS - 1, [], False, 9.0, 1.0)
    assert share.prefill_lately_s(1.0) is None
    share.ran(100, [], False, 0.5, 2.0)
    assert share.prefill_lately_s(2.0) == 0.005
    share.ran(100, [], False, 1.5, 3.0)
    assert share.prefill_lately_s(3.0) == pytest.approx(0.006), "new prompts move it a little"
    assert share.prefill_lately_s(3.0 + LATELY_S) is None


def test_a_batch_beside_decoding_sessions_takes_a_bounded_multiple_of_their_step() -> None:
    share = PrefillShare(2048)
    share.ran(1, [b"other"], True, 0.1, 0.0)
    share.ran(400, [], False, 0.5, 0.1)
    assert share.token_s == pytest.approx(0.001)
    assert share.budget(b"long", 0.2) == pytest.approx((STRETCH - 1) * 0.1 / 0.001, abs=1)


def test_short_prompts_of_many_go_first_and_so_many_at_once_that_the_next_hop_can_begin() -> None:
    share = PrefillShare(2048)
    assert share.budget(b"a", 0.0, [16] * 8) == 2048, "nothing is known of prompts yet"
    share.ran(100, [], False, 0.2, 0.0)
    joint = int(JOINT_S / 0.002)
    assert share.budget(b"a", 0.1, [16] * 8) == joint
    assert share.budget(b"a", 0.1, [16]) == 500, "it is alone"
    assert share.budget(b"a", 0.1, [2000, 16, 16]) == 500, "a long one goes at full speed"
    share.ran(2, [b"x", b"y"], True, 0.02, 1.0)
    assert share.budget(b"a", 1.1, [16] * 3) == joint
    assert share.budget(b"a", 1.1, [16] * 2) == LEAST_PORTION, "as many decode"
    assert share.budget(b"a", 1.1, [joint + 1, 16, 16, 16]) == LEAST_PORTION, "a long one would hold them up"


def test_who_has_had_a_short_prompt_will_decode() -> None:
    share = PrefillShare(2048)
    share.ran(1, [b"x"], True, 0.02, 0.0)
    share.ran(16, [], False, 0.03, 5.0, begun=[b"x"])
    assert share.budget(b"long", 5.1) < 2048
    assert share.budget(b"x", 5.1) == 2048, "its own prompt does not count"
    assert share.budget(b"long", 5.0 + RECENTLY_S + HOPS * 0.03) == 2048
    share.forget(b"x")
    assert share.budget(b"long", 5.1) == 2048


def test_who_was_held_up_by_long_batches_still_counts_as_decoding() -> None:
    share = PrefillShare(2048)
    share.ran(1, [b"x"], True, 0.02, 0.0)
    share.ran(16, [], False, 0.03, 0.1, begun=[b"y"])
    share.ran(1024, [], False, 3.0, 3.1)
    assert share.budget(b"long", 3.2) < 2048, "the next hop has held them up as long"
    assert share.budget(b"long", 7.2) == 341, "a second's"
    for turn in range(60):
        share.ran(1, [b"x"], True, 0.02, 8 + turn * 0.02)
    assert share.budget(b"long", 9.2 + RECENTLY_S + HOPS * 0.02) == 341, "batches are short again"


def test_no_batch_takes_much_longer_than_a_second() -> None:
    share = PrefillShare(2048)
    share.ran(100, [], False, 0.25, 0.0)
    assert share.budget(b"long", 0.1) == WHOLE_S / 0.0025
    share = PrefillShare(2048)
    share.ran(100, [], False, 0.01, 0.0)
    assert share.budget(b"long", 0.1) == 2048
    share = PrefillShare(2048)
    share.ran(100, [], False, 50.0, 0.0)
    assert share.budget(b"long", 0.1) == LEAST_WHOLE, "a slow device still runs products of many rows"


def test_who_waits_with_a_decode_step_counts_however_long_it_was_away() -> None:
    share = PrefillShare(2048)
    share.ran(1, [b"x"], True, 0.02, 0.0)
    share.ran(40, [], False, 0.4, 1.0)
    assert share.budget(b"long", 99.0) == 100
    assert share.budget(b"long", 99.0, here=1) == LEAST_PORTION


def test_a_decode_step_that_waits_holds_back_the_prompt_beside_it() -> None:
    pace = Pace(2048, together=True)
    pace.share.ran(1, [b"x"], True, 0.02, 0.0)
    pace.share.ran(40, [], False, 0.4, 1.0)
    prompt = Waiting(b"long", 1024, 98.0, divisible=True)
    assert pace.choose([prompt], 99.0) == [Portion(0, 100)]
    assert pace.choose([prompt, Waiting(b"x", 1, 98.5)], 99.0) == [Portion(1, 1), Portion(0, LEAST_PORTION)]


def test_who_decodes_beside_a_prompt_for_long_still_counts_as_decoding() -> None:
    share = PrefillShare(2048)
    share.ran(1, [b"other"], True, 0.02, 0.0)
    for turn in range(1, 5):
        share.ran(9, [b"other"], False, 0.03, turn * 0.9 * RECENTLY_S)
    assert share.budget(b"long", 4 * RECENTLY_S) < 2048


def test_a_prefill_beyond_the_budget_waits_for_decode_steps_until_it_is_late() -> None:
    prefill, decode = Waiting(b"long", 512, 0.0), Waiting(b"short", 1, 0.1)
    assert batch_of([prefill], 0.1) == [prefill]
    assert batch_of([prefill, decode], 0.1) == [decode]
    assert batch_of([prefill, decode], PATIENCE_S + 0.01) == [decode, prefill]


def test_of_several_late_prefills_beyond_the_budget_one_goes_at_a_time() -> None:
    queue = [Waiting(b"a", 512, 0.0), Waiting(b"b", 512, 0.0), Waiting(b"c", 1, 0.0)]
    assert [work.session for work in batch_of(queue, 9.0)] == [b"c", b"a"]


def test_an_idle_device_waits_for_those_who_make_a_batch_worth_more() -> None:
    assert wait_s(1, [0.002, 0.003, 0.5], 0.04) == 0.003
    assert wait_s(6, [0.02] * 5, 0.045) == 0.02
    assert wait_s(1, [0.0], 0.04) == LEAST_WAIT_S, "they come with the same read of a socket"


def test_it_waits_for_nobody_who_is_far_or_too_few() -> None:
    assert wait_s(1, [], 0.04) == 0.0
    assert wait_s(8, [0.045] * 8, 0.045) == 0.0, "two groups take turns at two hops"
    assert wait_s(8, [0.01], 0.045) == 0.0
    assert wait_s(1, [0.05], 0.045) == 0.0


@given(here=st.integers(1, 20), expected=st.lists(st.floats(0, 1), max_size=20), batch_s=st.floats(1e-4, 1))
def test_it_never_waits_longer_than_a_batch_takes(here: int, expected: list[float], batch_s: float) -> None:
    assert 0.0 <= wait_s(here, sorted(expected), batch_s) <= batch_s


def test_sessions_that_other_devices_keep_for_as_long_go_in_two_groups() -> None:
    assert group_size(16, absence_s=0.05, batch_s=0.04) == GroupSize(8, 8)
    assert group_size(7, absence_s=0.04, batch_s=0.04) == GroupSize(3, 4)
    assert group_size(1, absence_s=1.0, batch_s=0.04) == GroupSize(0, 1)
    assert group_size(16, absence_s=0.01, batch_s=0.04) == GroupSize(0, 16), "only this device computes"
    assert group_size(16, absence_s=0.05, batch_s=0.0) == GroupSize(0, 16), "nothing is known yet"


def test_who_is_left_over_waits_for_the_next_group() -> None:
    assert wait_s(1, [0.01] * 7, 0.04, least=8) == 0.01
    assert wait_s(1, [0.09] * 7, 0.04, least=8) == 0.02, "their absence may have been longer than it will be"
    assert wait_s(1, [0.01] * 3, 0.04, least=8) == 0.01, "others have ended"
    assert wait_s(8, [0.04] * 7, 0.04, least=8) == 0.0


def test_a_batch_takes_the_decode_steps_that_came_first() -> None:
    queue = [Waiting(bytes([i]), 1, i / 1000) for i in range(5)] + [Waiting(b"long", 40, 0.0, True)]
    assert choose_batch(queue, 0.01, 16, most=3) == [*(Portion(i, 1) for i in range(3)), Portion(5, 16)]
    assert len(choose_batch(queue, 0.01, 16, most=9)) == 6


def test_sessions_are_expected_after_their_usual_absence() -> None:
    absences = Absences()
    absences.came(b"new", 0.0)
    for turn in range(3):
        absences.left(b"a", turn)
        absences.came(b"a", turn + 0.1)
        absences.left(b"b", turn)
        absences.came(b"b", turn + 0.2)
    assert absences.expected(3.0) == [], "nobody is away"
    for name in (b"a", b"b", b"fresh"):
        absences.left(name, 3.0)
    assert absences.usual_s() == pytest.approx(0.15)
    assert absences.expected(3.05) == pytest.approx([0.05, 0.15])
    assert absences.expected(3.12) == pytest.approx([0.0, 0.08])
    assert absences.expected(3.2) == pytest.approx([0.0]), "one is lost"
    absences.forget(b"b")
    assert absences.expected(3.2) == []
