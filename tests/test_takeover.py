"""Peers that leave hand the state of live sessions to others: no token changes, and nothing is computed again."""

from __future__ import annotations

from typing import Any

import pytest

from tests.in_process import Lab, serve_twice
from tests.shard_lab import left_padded, prompt

pytestmark = pytest.mark.slow

WAYS: dict[str, dict[str, Any]] = {
    "greedy": {"input_ids": prompt()},
    "sampling": {"input_ids": prompt(), "do_sample": True, "temperature": 0.9},
    "batch": left_padded(),
    "beams": {"input_ids": prompt(), "num_beams": 3},
    "lookup": {"input_ids": prompt(6).repeat(1, 3), "prompt_lookup_num_tokens": 3},
}


async def drain(lab: Lab, *names: str) -> None:
    for name in names:
        lab.peers[name].service.drain()


def computed(lab: Lab) -> dict[str, int]:
    return {name: peer.service.load.computed_tokens for name, peer in lab.peers.items()}


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
@pytest.mark.parametrize("leaving", ["A", "B", "C", "AB", "ABC"])
def test_what_leaving_peers_hold_goes_to_others_and_nothing_is_computed_again(
    leaving: str, way: dict[str, Any]
) -> None:
    with Lab() as lab:
        serve_twice(lab)
        lab.before_call[2] = lambda: drain(lab, *leaving)
        lab.check_exact(**way)
        spent = computed(lab)
        assert lab.stats.handovers == len(leaving)
        assert (lab.stats.failovers, lab.stats.replayed_tokens) == (0, 0)
        whole = {spent[name] + spent[name.lower()] for name in "ABC"}
        assert len(whole) == 1, "each layer has computed every token once"
        assert lab.loop.time() == 1000.0, "nobody waited for anything"


@pytest.mark.parametrize("model_type", ["gemma2", "gpt2", "deepseek_v3", "lfm2", "qwen3_next", "gemma3n_text", "mamba2", "bamba", "falcon_h1", "zamba2", "glm_moe_dsa", "deepseek_v4", "longcat_flash"])
def test_kinds(model_type: str) -> None:
    with Lab(model_type) as lab:
        serve_twice(lab)
        lab.before_call[2] = lambda: drain(lab, "B")
        lab.check_exact(input_ids=prompt())
        print(model_type, lab.stats)
