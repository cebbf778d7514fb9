"""Architectures whose layers exchange more than one hidden state, over peers and links of one process."""

from __future__ import annotations

import pytest

from tests.in_process import Lab
from tests.shard_lab import prompt

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    ("model_type", "cuts"),
    [
        ("deepseek_v4", (2, 4)),  # several streams, and token ids
        ("gemma3n_text", (1, 2)),  # streams, and inputs for every layer
        ("glm_moe_dsa", (2, 4)),  # indices of chosen tokens go from layer to layer
    ],
)
def test_tokens_are_those_of_the_local_model(model_type: str, cuts: tuple[int, int]) -> None:
    with Lab(model_type) as lab:
        for name, start, end in (("A", 0, cuts[0]), ("B", cuts[0], cuts[1]), ("C", cuts[1], 6)):
            lab.serve(name, start, end)
        lab.check_exact(input_ids=prompt())
