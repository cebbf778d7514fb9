"""Benchmarks of a shard in this process: what they count is what was computed and is held."""

from __future__ import annotations

from pathlib import Path

import pytest

from swarm.bench.batching import batching
from swarm.bench.fed_shard import feed, first_shard
from swarm.bench.lab import Lab
from swarm.bench.memory import memory, needed_bytes
from swarm.bench.plan import Plan

pytestmark = pytest.mark.slow


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return Lab.open("tiny", tmp_path, lambda text: None)


def test_what_a_token_needs_is_what_a_token_takes(lab: Lab) -> None:
    shard = first_shard(lab, 2)
    assert needed_bytes(shard) == shard.cache_bytes_per_token == (2 * 2 * 16 * 2 + 32) * 4


def test_sessions_are_fed_in_pieces_to_the_same_length(lab: Lab) -> None:
    shard = first_shard(lab, 2)
    sessions = [shard.open(shard.span, rollback=True) for _ in range(2)]
    feed(sessions, 300)
    assert [(s.length, s.counters.steps) for s in sessions] == [(300, 2)] * 2


def test_memory_counts_every_session_after_its_prompt_and_after_decoding(lab: Lab) -> None:
    report = memory(lab, Plan(peers=2, tokens=4, prompt=192, sessions=(1, 2)))
    prompts, grown = report.rows
    assert (prompts["tokens"], grown["tokens"]) == (192 + 192, 192 + 192 + 8)
    assert prompts["allocated_ratio"] == prompts["counted_ratio"] == 1
    assert grown["allocated_ratio"] == grown["counted_ratio"] == 512 / 392


def test_batching_has_a_row_for_every_number_of_sessions(lab: Lab) -> None:
    report = batching(lab, Plan(peers=2, rounds=1, tokens=4, prompt=8, sessions=(1, 3)))
    assert [row["who"] for row in report.rows] == ["1 session", "3 sessions"]
