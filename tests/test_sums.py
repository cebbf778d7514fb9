"""The demo model over three peers still adds."""

from __future__ import annotations

from typing import Any

import pytest
from transformers import AutoTokenizer

from swarm import SwarmModel
from swarm.builtin import demo_path
from swarm.builtin.corpus import held_out_sums
from swarm.builtin.measure import sum_accuracy
from tests.conftest import SwarmFactory

pytestmark = [pytest.mark.slow, pytest.mark.network]


def test_nine_of_ten_unseen_sums_are_right_through_three_peers(swarm_factory: SwarmFactory) -> None:
    swarm = swarm_factory()
    for span in ("0:3", "3:6", "6:8"):
        swarm.serve("demo", span, "--threads", "1", "--max-batch-rows", "256")
    with SwarmModel.from_pretrained("demo", peers=swarm.addresses[:1]) as found:
        model: Any = found
        tokenizer = AutoTokenizer.from_pretrained(demo_path())
        assert sum_accuracy(model, tokenizer, held_out_sums(200, seed=3)) >= 0.9
