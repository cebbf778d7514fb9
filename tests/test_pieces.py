"""Cutting a step into pieces."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from swarm.client.pieces import Pace, cut, wanted_from
from swarm.core.config import LEAST_PIECE_TOKENS
from swarm.shards.history import History
from swarm.shards.step import Step, StepTensors

HIDDEN = 4


def past_and_step(before: int, new: int, rows: int) -> tuple[History, Step]:
    """A history that ends with a step of `new` positions."""
    history = History()
    states = torch.arange(rows * (before + new) * HIDDEN, dtype=torch.float32).reshape(rows, -1, HIDDEN)
    history.append(StepTensors(states))
    return history, Step(3, before, StepTensors(states[:, before:]), tuple(range(rows)))


@given(
    before=st.integers(0, 40),
    new=st.integers(1, 40),
    rows=st.integers(1, 3),
    keep_last=st.integers(0, 3),
    chunk=st.integers(0, 17),
    resend=st.none() | st.integers(0, 80),
)
def test_pieces_follow_each_other_and_bring_everything_once(
    before: int, new: int, rows: int, keep_last: int, chunk: int, resend: int | None
) -> None:
    history, step = past_and_step(before, new, rows)
    keep_last = min(keep_last, new)
    if resend is not None:
        resend = min(resend, wanted_from(step, keep_last))
    pieces = cut(step, history, resend_from=resend, keep_last=keep_last, chunk=chunk)
    first = before if resend is None else resend
    assert pieces[0].start == first
    assert [p.start + p.tensors.tokens for p in pieces] == [*(p.start for p in pieces[1:]), before + new]
    sent = torch.cat([p.tensors.hidden for p in pieces], dim=1)
    assert torch.equal(sent, history.slice(first, before + new).hidden)
    assert sum(p.wanted for p in pieces) == (keep_last or new)
    assert all(0 <= p.wanted <= p.tensors.tokens for p in pieces)
    assert {p.number for p in pieces} == {step.number}


def test_rows_are_selected_once_and_not_in_a_past_that_is_sent_again() -> None:
    history, step = past_and_step(10, 30, 2)
    pieces = cut(step, history, resend_from=None, keep_last=1, chunk=8)
    assert [p.select_rows for p in pieces] == [(0, 1), None, None, None]
    again = cut(step, history, resend_from=0, keep_last=1, chunk=8)
    assert {p.select_rows for p in again} == {None}


def test_one_hop_takes_a_step_in_one_piece() -> None:
    assert Pace().chunk(tokens=1000, rows=1, hops=1) == 1000


@given(tokens=st.integers(1, 5000), rows=st.integers(1, 8), hops=st.integers(1, 12))
def test_pieces_are_not_smaller_than_is_worth_it(tokens: int, rows: int, hops: int) -> None:
    assert Pace().chunk(tokens, rows, hops) * rows >= LEAST_PIECE_TOKENS


def test_expensive_pieces_are_longer() -> None:
    cheap, dear = Pace(), Pace()
    for pace, fixed_s in ((cheap, 0.01), (dear, 0.5)):
        pace.observe(1, fixed_s)
        pace.observe(512, 1.0)
    assert cheap.chunk(4096, 1, 3) < dear.chunk(4096, 1, 3)


@given(
    fixed_s=st.floats(0.001, 0.1),
    token_s=st.floats(0.001, 0.01),
    hops=st.integers(2, 8),
    tokens=st.integers(512, 4096),
)
def test_pieces_of_two_lengths_show_what_a_single_token_does_not(
    fixed_s: float, token_s: float, hops: int, tokens: int
) -> None:
    def whole_s(chunk: int) -> float:
        return (hops - 1 + tokens / chunk) * (fixed_s + token_s * chunk)

    pace = Pace()
    pace.observe(1, fixed_s / 4)
    for length in (512, 100, 512, 100):
        pace.observe(length, fixed_s + token_s * length)
    best_s = min(whole_s(chunk) for chunk in range(LEAST_PIECE_TOKENS, tokens + 1))
    assert whole_s(pace.chunk(tokens, 1, hops)) < 1.1 * best_s


def test_noise_does_not_make_pieces_as_long_as_the_prompt() -> None:
    pace = Pace()
    pace.observe(1, 0.01)
    for length, took_s in ((100, 0.4), (512, 0.401), (130, 0.5)):
        pace.observe(length, took_s)
    assert pace.chunk(4096, 1, 3) < 1024
