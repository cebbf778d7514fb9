"""What fits on a device: plain arithmetic over bytes, and errors that say what to do."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from swarm.core.errors import ConfigError, ModelError
from swarm.peer.capacity import (
    DEFAULT_CACHE_TOKENS,
    LEAST_CACHE_TOKENS,
    OVERHEAD_BYTES,
    SHARE_OF_FREE_MEMORY,
    MemoryPlan,
    check_explicit_cache,
    kv_bytes_per_token,
    weight_factor,
)

MIB = 1024**2
GIB = 1024**3
plans = st.builds(
    MemoryPlan,
    free_bytes=st.integers(0, 200 * GIB),
    layer_bytes=st.integers(1, 4 * GIB),
    kv_bytes=st.integers(0, 65536),
    kept_bytes=st.integers(0, 65536),
)


def used(plan: MemoryPlan, layers: int, tokens: int) -> int:
    return layers * (plan.layer_bytes + tokens * plan.kv_bytes) + tokens * plan.kept_bytes


@given(plan=plans, tokens=st.none() | st.integers(64, 1 << 20), most=st.integers(1, 200))
def test_as_many_layers_as_fit_and_not_one_more(plan: MemoryPlan, tokens: int | None, most: int) -> None:
    cache = tokens or DEFAULT_CACHE_TOKENS
    try:
        layers = plan.layers_that_fit(tokens, most)
    except ModelError:
        assert used(plan, 1, cache) > plan.budget_bytes
        return
    assert used(plan, layers, cache) <= plan.budget_bytes
    assert layers == most or used(plan, layers + 1, cache) > plan.budget_bytes
    plan.check(layers, cache)


@given(plan=plans, layers=st.integers(1, 200))
def test_as_much_cache_as_fits_beside_the_layers(plan: MemoryPlan, layers: int) -> None:
    try:
        tokens = plan.cache_tokens_that_fit(layers)
    except ModelError:
        assert used(plan, layers, LEAST_CACHE_TOKENS) > plan.budget_bytes
        return
    assert LEAST_CACHE_TOKENS <= tokens <= DEFAULT_CACHE_TOKENS
    plan.check(layers, tokens)
    assume(tokens < DEFAULT_CACHE_TOKENS)
    with pytest.raises(ModelError):
        plan.check(layers, tokens + 1)


def test_the_budget_leaves_a_share_to_others_and_the_stated_overhead() -> None:
    assert MemoryPlan(16 * GIB, 1, 1, 1).budget_bytes == int(16 * GIB * SHARE_OF_FREE_MEMORY) - OVERHEAD_BYTES


def test_errors_name_what_is_needed_what_there_is_and_what_to_do() -> None:
    plan = MemoryPlan(free_bytes=1 * GIB, layer_bytes=300 * MIB, kv_bytes=4096, kept_bytes=4096)
    usable = "358 MiB are usable"
    with pytest.raises(
        ModelError, match=rf"300 MiB and 16384 tokens of cache 128 MiB, {usable}.*--cache-tokens"
    ):
        plan.layers_that_fit(None, 8)
    with pytest.raises(ModelError, match=rf"2 layers need 600 MiB .* {usable}: serve fewer --layers"):
        plan.cache_tokens_that_fit(2)
    with pytest.raises(ModelError, match=rf"1 layers need 300 MiB and 9000 tokens of cache 70 MiB; {usable}"):
        plan.check(1, 9000)
    with pytest.raises(ModelError, match="0 MiB are usable"):
        MemoryPlan(0, 1, 1, 1).layers_that_fit(None, 1)


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"hidden_size": 64, "num_attention_heads": 4}, 2 * 4 * 16),
        ({"hidden_size": 64, "num_attention_heads": 4, "num_key_value_heads": 2}, 2 * 2 * 16),
        (
            {"hidden_size": 64, "num_attention_heads": 4, "num_key_value_heads": None, "head_dim": 32},
            2 * 4 * 32,
        ),
        ({"hidden_size": 64}, 2 * 64),
    ],
    ids=["plain", "grouped", "wide heads", "no heads"],
)
def test_keys_and_values_are_counted_from_the_configuration(config: dict[str, Any], expected: int) -> None:
    assert kv_bytes_per_token(SimpleNamespace(**config), 2) == 2 * expected


def test_weights_change_their_size_with_the_precision() -> None:
    assert weight_factor(2, 4, None) == 2.0
    assert weight_factor(4, 2, None) == 0.5
    assert weight_factor(2, 2, "nf4") < weight_factor(2, 2, "int8") < 1.0


def test_a_cache_below_a_page_is_refused() -> None:
    check_explicit_cache(64)
    with pytest.raises(ConfigError, match=r"--cache-tokens is 63.*at least 64"):
        check_explicit_cache(63)
