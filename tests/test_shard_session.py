"""What a session promises: repeat, roll back, select rows, and rebuild by replay."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
from torch import Tensor

from swarm.core.errors import RequestError, SessionLost
from swarm.core.span import Span
from swarm.shards.history import History
from swarm.shards.session import ShardSession
from swarm.shards.shard import Shard
from swarm.shards.step import Step, StepTensors
from tests.shard_lab import feed, hidden, load_shards, twins_of

pytestmark = pytest.mark.slow
attention_models = pytest.mark.parametrize("model_type", ["bloom", "gemma3_text", "gpt2", "llama", "mixtral"])


@functools.cache
def middle_shard(model_type: str) -> Shard:
    """Layers 1:4 of an architecture."""
    return load_shards(model_type, [Span(1, 4)])[0]


def assert_close(found: Tensor, expected: Tensor, tolerance: float = 1e-5) -> None:
    """Equal but for the order of float additions."""
    torch.testing.assert_close(found, expected, atol=tolerance, rtol=0)


def opened(model_type: str, *, rollback: bool = True) -> ShardSession:
    """A fresh session on layers 1:4."""
    return middle_shard(model_type).open(Span(1, 4), rollback=rollback)


def replay(history: History, session: ShardSession, chunk: int) -> None:
    """Feed kept outputs of the hop before into a fresh session, `chunk` positions at a time."""
    for number, start in enumerate(range(0, history.length, chunk)):
        session.apply(Step(number, start, history.slice(start, min(start + chunk, history.length))))


def kept_inputs(*pieces: Tensor) -> History:
    """What the hop before would have kept."""
    history = History()
    for piece in pieces:
        history.append(StepTensors(piece))
    return history


@attention_models
def test_a_repeated_step_gives_the_same_answer_and_computes_nothing(model_type: str) -> None:
    session = opened(model_type)
    feed(session, 0, 0, hidden(7))
    first = feed(session, 4, 7, hidden(2, seed=4))
    again = feed(session, 4, 7, torch.zeros(1, 2, 32))
    assert torch.equal(first.hidden, again.hidden)
    assert (session.length, session.last_step, session.counters.tokens) == (9, 4, 9)


@attention_models
def test_a_rolled_back_session_continues_as_if_nothing_had_happened(model_type: str) -> None:
    straight, detour = opened(model_type), opened(model_type)
    feed(straight, 0, 0, hidden(9))
    feed(detour, 0, 0, hidden(9))
    feed(detour, 1, 9, hidden(5, seed=8))
    feed(detour, 2, 11, hidden(4, seed=9))
    expected = feed(straight, 1, 9, hidden(3, seed=5))
    found = feed(detour, 3, 9, hidden(3, seed=5))
    assert_close(found.hidden, expected.hidden)
    assert detour.length == detour.kept.length == 12


@attention_models
@pytest.mark.parametrize("chunk", [1, 4, 100])
def test_a_replayed_session_ends_in_the_state_of_the_lost_one(model_type: str, chunk: int) -> None:
    lost, heir = opened(model_type), opened(model_type)
    pieces = [hidden(8), hidden(1, seed=4), hidden(3, seed=5)]
    start = 0
    for number, piece in enumerate(pieces):
        feed(lost, number, start, piece)
        start += piece.shape[1]
    replay(kept_inputs(*pieces), heir, chunk)
    expected, found = (feed(session, 200, 12, hidden(2, seed=6)) for session in (lost, heir))
    assert_close(found.hidden, expected.hidden)
    assert_close(heir.kept.slice(0, 14).hidden, lost.kept.slice(0, 14).hidden)


@pytest.mark.parametrize("model_type", ["falcon_h1", "qwen3_next"])
def test_a_recurrent_session_is_replayed_in_one_piece(model_type: str) -> None:
    assert not middle_shard(model_type).traits.chunkable
    lost, heir = opened(model_type), opened(model_type)
    feed(lost, 0, 0, hidden(8))
    feed(lost, 1, 8, hidden(1, seed=4))
    feed(lost, 2, 9, hidden(1, seed=5))
    replay(kept_inputs(hidden(8), hidden(1, seed=4), hidden(1, seed=5)), heir, 100)
    expected, found = (feed(session, 3, 10, hidden(1, seed=6)) for session in (lost, heir))
    assert_close(found.hidden, expected.hidden, 1e-4)


def test_a_recurrent_session_refuses_to_roll_back_and_goes_on() -> None:
    session = opened("qwen3_next")
    feed(session, 0, 0, hidden(8))
    with pytest.raises(RequestError, match="recurrent"):
        feed(session, 1, 5, hidden(1))
    feed(session, 1, 8, hidden(1))
    assert session.length == 9


def test_a_session_without_roll_back_refuses_once_the_window_is_full() -> None:
    session = opened("mistral", rollback=False)
    feed(session, 0, 0, hidden(4))
    feed(session, 1, 3, hidden(1))
    feed(session, 2, 4, hidden(6))
    with pytest.raises(RequestError, match="opened without roll-back"):
        feed(session, 3, 8, hidden(1))
    assert session.length == 10


@attention_models
def test_any_session_can_begin_anew(model_type: str) -> None:
    session = opened(model_type, rollback=False)
    first = feed(session, 0, 0, hidden(9))
    feed(session, 1, 9, hidden(1))
    assert torch.equal(feed(session, 2, 0, hidden(9)).hidden, first.hidden)
    assert session.length == 9


@attention_models
def test_selected_rows_continue_where_their_origin_was(model_type: str) -> None:
    batch, single = opened(model_type), opened(model_type)
    rows = hidden(7, rows=3)
    feed(batch, 0, 0, rows)
    feed(single, 0, 0, rows[2:])
    new = hidden(2, rows=2, seed=6)
    found = feed(batch, 1, 7, new, select_rows=(2, 2))
    expected = feed(single, 1, 7, new[1:])
    assert_close(found.hidden[1:], expected.hidden)
    assert batch.rows == batch.kept.rows == 2
    assert torch.equal(batch.kept.slice(0, 7).hidden[0], batch.kept.slice(0, 7).hidden[1])


@attention_models
def test_padding_is_invisible_and_accumulates_over_steps(model_type: str) -> None:
    padded, plain = opened(model_type), opened(model_type)
    states = hidden(8)
    mask = torch.ones(1, 8, dtype=torch.bool)
    mask[:, :3] = False
    positions = (mask.long().cumsum(1) - 1).clamp(min=0)
    found = feed(padded, 0, 0, states, mask=mask, positions=positions)
    expected = feed(plain, 0, 0, states[:, 3:])
    assert_close(found.hidden[:, 3:], expected.hidden, 1e-4)
    step = hidden(1, seed=5)
    found = feed(padded, 1, 8, step, positions=torch.tensor([[5]]))
    assert_close(found.hidden, feed(plain, 1, 5, step).hidden, 1e-4)
    kept = padded.kept.slice(0, 9)
    assert kept.mask is not None
    assert kept.mask[0].tolist() == [False] * 3 + [True] * 6
    assert kept.positions is not None
    assert kept.positions[0].tolist() == [0, 0, 0, 0, 1, 2, 3, 4, 5]


def test_a_session_may_run_a_part_of_the_shard() -> None:
    shard = load_shards("llama", [Span(0, 5)])[0]
    whole, first, rest = (shard.open(span, rollback=False) for span in (Span(1, 5), Span(1, 2), Span(2, 5)))
    for number, states in enumerate((hidden(6), hidden(1, seed=5))):
        start = 6 * number
        passed = feed(first, number, start, states)
        found = rest.apply(Step(number, start, passed))
        assert torch.equal(found.hidden, feed(whole, number, start, states).hidden)


@pytest.mark.parametrize(
    ("step", "words"),
    [
        (Step(3, 9, StepTensors(hidden(1, rows=2))), "9, but only 7"),
        (Step(1, 7, StepTensors(hidden(1, rows=2))), "step 1 came after step 2"),
        (Step(3, 7, StepTensors(hidden(1, rows=3))), "2 rows"),
        (Step(3, 7, StepTensors(hidden(1, rows=1)), (2,)), "outside of the 2 rows"),
        (Step(3, 7, StepTensors(hidden(1, rows=2)), (0,)), "select_rows names 1 rows"),
        (Step(3, 7, StepTensors(hidden(1, rows=2, width=16))), "expected is .2, 1, 32."),
        (
            Step(3, 7, StepTensors(hidden(1, rows=2), mask=torch.ones(2, 3, dtype=torch.bool))),
            "mask has shape",
        ),
        (Step(2, 6, StepTensors(hidden(2, rows=2))), "ended at 7"),
    ],
)
def test_a_step_that_does_not_fit_is_refused_and_changes_nothing(step: Step, words: str) -> None:
    session = opened("llama")
    feed(session, 2, 0, hidden(7, rows=2))
    with pytest.raises(RequestError, match=words):
        session.apply(step)
    assert (session.length, session.last_step, session.rows) == (7, 2, 2)
    assert feed(session, 3, 7, hidden(1, rows=2)).hidden.shape == (2, 1, 32)


def test_a_session_whose_step_broke_half_way_says_that_it_is_lost() -> None:
    session = load_shards("llama", [Span(1, 4)])[0].open(Span(1, 4), rollback=False)
    feed(session, 0, 0, hidden(4))
    layer: Any = session.shard.window[2]
    handle = layer.register_forward_pre_hook(lambda *_: (_ for _ in ()).throw(MemoryError()))
    with pytest.raises(MemoryError):
        feed(session, 1, 4, hidden(1))
    handle.remove()
    with pytest.raises(SessionLost):
        feed(session, 1, 4, hidden(1))


def test_memory_of_a_session_is_near_what_its_tokens_should_take() -> None:
    shard = middle_shard("llama")
    session = opened("llama")
    feed(session, 0, 0, hidden(256, rows=2))
    assert session.nbytes == shard.cache_bytes_per_token * 2 * 256


def test_a_failed_hop_can_be_replaced_in_mid_generation() -> None:
    twins = twins_of("gemma2")
    ids = torch.arange(3, 14)[None]
    with torch.no_grad():
        expected = twins.local.generate(ids, max_new_tokens=10, do_sample=False)
        out = twins.model(ids, use_cache=True)
        said = ids.tolist()[0]
        for turn in range(10):
            token = int(out.logits[0, -1].argmax())
            said.append(token)
            if turn == 4:
                hops = twins.runner.sessions[-1].hops
                heir = twins.runner.shards[1].open(twins.runner.shards[1].span, rollback=True)
                replay(hops[0].kept, heir, 4)
                heir.last_step = hops[1].last_step
                hops[1] = heir
            out = twins.model(torch.tensor([[token]]), past_key_values=out.past_key_values)
    assert said == expected[0].tolist()
