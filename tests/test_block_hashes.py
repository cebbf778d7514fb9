"""The hash chain of a session's inputs."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from swarm.client.block_hashes import BlockHashes
from swarm.core.prefix_index import BLOCK_TOKENS
from swarm.shards.history import History
from swarm.shards.step import StepTensors
from tests.shard_lab import hidden


def history_of(states: Tensor, mask: Tensor | None = None, positions: Tensor | None = None) -> History:
    history = History()
    history.append(StepTensors(states, mask, positions))
    return history


def chain(history: History) -> tuple[bytes, ...]:
    return BlockHashes().of(history)


def test_only_full_blocks_have_a_hash() -> None:
    block = BLOCK_TOKENS
    states, lengths = hidden(2 * block + 2), (1, block - 1, block, 2 * block - 1, 2 * block, 2 * block + 2)
    assert [len(chain(history_of(states[:, :n]))) for n in lengths] == [0, 0, 1, 1, 2, 2]
    assert chain(history_of(states[:, :block])) == chain(history_of(states))[:1]


def test_a_change_reaches_all_later_blocks() -> None:
    states = hidden(4 * BLOCK_TOKENS)
    changed = states.clone()
    changed[0, BLOCK_TOKENS + 5, 5] += 1e-6
    before, after = chain(history_of(states)), chain(history_of(changed))
    assert [a == b for a, b in zip(before, after, strict=True)] == [True, False, False, False]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_every_dtype_has_hashes_of_its_own(dtype: torch.dtype) -> None:
    zeros = torch.zeros(1, BLOCK_TOKENS, 8, dtype=dtype)
    assert len(chain(history_of(zeros))) == 1
    assert chain(history_of(zeros)) != chain(history_of(torch.zeros(1, BLOCK_TOKENS, 8, dtype=torch.float64)))


def test_positions_count() -> None:
    states, positions = hidden(64), torch.arange(64).unsqueeze(0)
    found = {chain(history_of(states, positions=p)) for p in (None, positions, positions + 1)}
    assert len(found) == 3


def test_sessions_that_travel_as_int8_have_hashes_of_their_own() -> None:
    history = history_of(hidden(128))
    plain, coded = BlockHashes().of(history), BlockHashes("int8").of(history)
    assert not set(plain) & set(coded)
    assert BlockHashes("int8").of(history) == coded


def test_several_rows_and_padding_have_none() -> None:
    mask = torch.ones(1, 128, dtype=torch.bool)
    assert chain(history_of(hidden(128, rows=2))) == ()
    assert len(chain(history_of(hidden(128), mask))) == 128 // BLOCK_TOKENS
    mask[0, 0] = False
    assert chain(history_of(hidden(128), mask)) == ()


def test_a_history_that_went_back_and_on_has_the_chain_of_what_it_is_now() -> None:
    states, other = hidden(200), hidden(100, seed=9)
    history, hashes = history_of(states), BlockHashes()
    hashes.of(history)
    history.truncate(100)
    hashes.truncate(100)
    history.append(StepTensors(other))
    assert hashes.of(history) == chain(history_of(torch.cat([states[:, :100], other], dim=1)))
