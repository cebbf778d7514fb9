"""Real peers compute a prompt once: the second time only what comes after its last full block."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from swarm import SwarmModel
from swarm.builtin import demo_path
from tests.conftest import SwarmFactory
from tests.swarm_records import records, wait_all_free
from tests.waiting import wait_for

pytestmark = [pytest.mark.slow, pytest.mark.network]

LENGTH, REUSED, NEW_TOKENS = 200, 192, 8


def test_the_second_request_with_a_prompt_costs_every_peer_its_tail(swarm_factory: SwarmFactory) -> None:
    torch.set_num_threads(1)
    swarm = swarm_factory()
    swarm.bootstrap()
    for span in ("0:3", "3:6", "6:8"):
        swarm.serve("demo", span, "--threads", "1", "--cache-tokens", "4096")
    ids = torch.randint(5, 150, (1, LENGTH), generator=torch.Generator().manual_seed(7))
    arguments: dict[str, Any] = {
        "do_sample": False,
        "max_new_tokens": NEW_TOKENS,
        "min_new_tokens": NEW_TOKENS,
    }
    local: Any = AutoModelForCausalLM.from_pretrained(demo_path())
    expected = local.generate(ids, **arguments)
    forwarded = LENGTH + NEW_TOKENS - 1

    before = {record.peer_id: record.computed_tokens for record in records(swarm.addresses, "demo")}

    def wait_computed(tokens: int) -> None:
        """Wait until every peer announces that it has computed so many tokens for this test."""

        def spent() -> list[int]:
            found = records(swarm.addresses, "demo")
            return [record.computed_tokens - before[record.peer_id] for record in found]

        wait_for(lambda: spent() == [tokens] * 3, 15.0, f"three peers announce {tokens} computed tokens")

    with SwarmModel.from_pretrained("demo", peers=swarm.addresses) as model:
        assert model.generate(ids, **arguments).tolist() == expected.tolist()
        wait_computed(forwarded)
        assert model.generate(ids, **arguments).tolist() == expected.tolist()
        assert model.stats.reused_tokens == REUSED
        wait_computed(2 * forwarded - REUSED)
    assert wait_all_free(swarm.addresses)
