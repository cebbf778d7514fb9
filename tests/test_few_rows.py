"""The compiled product of a few rows is the usual one, for any shape, and for each row by itself."""

from __future__ import annotations

import pytest
import torch

from swarm.shards.few_rows import by_few_rows, has_few_rows
from swarm.shards.products import store_by_columns

pytestmark = pytest.mark.skipif(not has_few_rows(), reason="no C compiler here")
SHAPES = [(40, 24), (7, 3), (17, 65), (1000, 256), (1056, 130), (33, 2816)]
ROWS = [1, 2, 3, 4, 5, 6, 7, 8, 11, 12, 13, 31]


@pytest.mark.parametrize("shape", SHAPES)
def test_it_is_the_product(shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    weight = store_by_columns(torch.randn(shape))
    for rows in ROWS:
        states = torch.randn(1, rows, shape[1])
        found = by_few_rows(states, weight)
        exact = states.double() @ weight.double().T
        torch.testing.assert_close(found, exact.float(), atol=2e-4, rtol=1e-4)


def test_a_row_does_not_depend_on_the_others() -> None:
    torch.manual_seed(0)
    weight, states = store_by_columns(torch.randn(1056, 130)), torch.randn(1, 13, 130)
    found = by_few_rows(states, weight)
    for rows in ROWS:
        assert torch.equal(by_few_rows(states[:, :rows], weight), found[:, :rows])


def test_the_matrix_may_be_a_part_of_a_larger_one_and_rows_need_not_lie_together() -> None:
    torch.manual_seed(0)
    whole = store_by_columns(torch.randn(100, 24))
    states = torch.randn(2, 7, 48)[:, 3:5, ::2]
    for begin, end in [(0, 40), (40, 57), (57, 100)]:
        part = whole[begin:end]
        torch.testing.assert_close(by_few_rows(states, part), states @ part.T)
