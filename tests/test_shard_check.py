"""`compare` tells whether splitting a model changes anything, and what to do about it."""

from __future__ import annotations

import pytest
import torch

from swarm.core.errors import ConfigError
from swarm.core.span import Span
from swarm.shards import check
from swarm.shards.check import CheckReport, CheckResult, compare, split_unequally
from swarm.shards.span_run import SpanRun
from tests.shard_lab import source_of


@pytest.mark.slow
@pytest.mark.parametrize("model_type", ["bloom", "gemma3_text", "llama", "qwen3_next"])
def test_a_supported_model_passes_every_test(model_type: str) -> None:
    report = compare(source_of(model_type))
    assert [result.name for result in report.results] == ["prefill", "decode", "rollback", "batch"]
    assert report.ok, report
    assert "can be served: split into" in report.verdict


@pytest.mark.slow
def test_a_big_model_is_compared_on_its_first_layers() -> None:
    report = compare(source_of("llama"), 2, max_layers=3)
    assert (report.layers, report.splits[-1].end, report.ok) == (3, 3, True)
    assert "(first 3 of 6 layers)" in report.verdict


@pytest.mark.slow
def test_half_precision_is_compared_within_its_own_accuracy() -> None:
    assert compare(source_of("llama"), dtype=torch.bfloat16).ok


@pytest.mark.slow
def test_a_model_that_comes_out_different_is_named_as_such(monkeypatch: pytest.MonkeyPatch) -> None:
    run = SpanRun._arguments

    def without_positions(self: SpanRun, tensors: object, cache: object, mask: object) -> object:
        arguments = run(self, tensors, cache, mask)  # type: ignore[arg-type]
        arguments["position_ids"] = torch.zeros(1, 1, dtype=torch.long)
        return arguments

    monkeypatch.setattr(SpanRun, "_arguments", without_positions)
    report = compare(source_of("llama"))
    assert not report.ok
    assert "must not be served in parts: prefill, decode" in report.verdict


@pytest.mark.slow
def test_more_splits_than_layers_are_refused() -> None:
    with pytest.raises(ConfigError, match="9 splits asked for, but only 6 layers"):
        compare(source_of("llama"), 9)


@pytest.mark.parametrize(("layers", "splits"), [(1, 1), (2, 2), (6, 3), (6, 6), (80, 3), (80, 7), (5, 4)])
def test_splits_cover_all_layers_without_gaps(layers: int, splits: int) -> None:
    spans = split_unequally(layers, splits)
    assert len(spans) == splits
    assert [span.start for span in spans] == [0, *(span.end for span in spans[:-1])]
    assert spans[-1].end == layers


def test_the_default_splits_are_unequal() -> None:
    assert len({len(span) for span in split_unequally(32, 3)}) == 3


@pytest.mark.slow
def test_memory_decides_the_depth(monkeypatch: pytest.MonkeyPatch) -> None:
    source = source_of("llama")
    layer = source.layer_bytes(Span(0, 1), torch.float32)
    ends = source.total_bytes(torch.float32) - 6 * layer
    monkeypatch.setattr(check, "free_memory", lambda device: int((2 * ends + 2 * 3.5 * layer) / 0.8))
    assert check._depth_that_fits(source, torch.float32) == 3


def test_a_failed_test_makes_the_report_fail() -> None:
    results = (CheckResult("prefill", True, 0.0), CheckResult("batch", False, 0.5))
    report = CheckReport("m", (Span(0, 2),), 2, 2, "float32", results)
    assert not report.ok
    assert "batch differ" in report.verdict
