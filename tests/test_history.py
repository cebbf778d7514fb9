"""The history of a layer boundary grows, shrinks and gives back exactly what went in."""

from __future__ import annotations

import pytest
import torch

from swarm.core.errors import RequestError
from swarm.shards.history import History
from swarm.shards.step import StepTensors


def states(tokens: int, rows: int = 2, start: int = 0) -> torch.Tensor:
    """A hidden state whose values tell row and position."""
    row = torch.arange(rows).view(-1, 1, 1) * 1000
    return (row + torch.arange(start, start + tokens).view(1, -1, 1)).expand(rows, tokens, 3).float()


def test_slices_give_back_what_was_appended_over_many_growths() -> None:
    history = History()
    start = 0
    for count in (5, 1, 1, 200, 1, 300, 3):
        history.append(StepTensors(states(count, start=start)))
        start += count
    assert history.length == start
    assert torch.equal(history.slice(0, start).hidden, states(start))
    assert torch.equal(history.slice(6, 230).hidden, states(224, start=6))


def test_appending_does_not_copy_the_past_every_time() -> None:
    history = History()
    history.append(StepTensors(states(100)))
    before = history.slice(0, 1).hidden.data_ptr()
    for _ in range(20):
        history.append(StepTensors(states(1)))
    assert history.slice(0, 1).hidden.data_ptr() == before


def test_what_was_truncated_is_overwritten() -> None:
    history = History()
    history.append(StepTensors(states(8)))
    history.truncate(3)
    history.append(StepTensors(states(2, start=50)))
    assert history.slice(0, 5).hidden[0, :, 0].tolist() == [0, 1, 2, 50, 51]


def test_selected_rows_may_repeat_and_change_their_number() -> None:
    history = History()
    history.append(StepTensors(states(2)))
    history.select_rows((1, 1, 0))
    assert history.slice(0, 2).hidden[:, 0, 0].tolist() == [1000, 1000, 0]
    history.append(StepTensors(states(1, rows=3)))
    assert (history.rows, history.length) == (3, 3)


def test_missing_masks_and_positions_are_written_out_as_their_defaults() -> None:
    history = History()
    history.append(StepTensors(states(2)))
    mask = torch.tensor([[False, True], [True, True]])
    positions = torch.tensor([[0, 0], [2, 3]])
    history.append(StepTensors(states(2), mask=mask, positions=positions))
    history.append(StepTensors(states(1)))
    whole = history.slice(0, 5)
    assert whole.mask is not None
    assert whole.positions is not None
    assert whole.mask.tolist() == [[True, True, False, True, True], [True] * 5]
    assert whole.positions.tolist() == [[0, 1, 0, 0, 4], [0, 1, 2, 3, 4]]
    assert history.slice(3, 5).mask is None, "a mask without padding is left out"


def test_carried_values_travel_with_their_numbers() -> None:
    history = History()
    carry = (None, torch.ones(2, 3, 4))
    history.append(StepTensors(states(3), carry=carry))
    found = history.slice(1, 3)
    assert found.carry[0] is None
    assert found.carry[1] is not None
    assert found.carry[1].shape == (2, 2, 4)


@pytest.mark.parametrize(
    ("tensors", "words"),
    [
        (StepTensors(states(1, rows=3)), "2 rows"),
        (StepTensors(torch.zeros(2, 1, 4)), "changed its size"),
        (StepTensors(states(1), embeds=states(1)), "had no tensor 'embeds'"),
    ],
)
def test_what_does_not_continue_the_history_is_refused(tensors: StepTensors, words: str) -> None:
    history = History()
    history.append(StepTensors(states(4)))
    with pytest.raises(RequestError, match=words):
        history.append(tensors)


def test_a_lacking_tensor_is_refused() -> None:
    history = History()
    history.append(StepTensors(states(4), token_ids=torch.zeros(2, 4, dtype=torch.long)))
    with pytest.raises(RequestError, match="lacks the tensor 'token_ids'"):
        history.append(StepTensors(states(1)))


def test_memory_is_counted_with_its_spare_room() -> None:
    history = History()
    assert history.nbytes == 0
    history.append(StepTensors(states(65)))
    assert history.nbytes == 2 * 96 * 3 * 4
