"""C functions where there is no compiler, or one that fails."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from swarm.shards import compiled as module
from swarm.shards import few_queries, few_rows, many_queries
from swarm.shards.compiled import compiled
from swarm.shards.few_queries import can_attend
from swarm.shards.few_rows import by_few_rows, has_few_rows
from swarm.shards.many_queries import has_many_queries
from swarm.shards.products import store_by_columns


def forget() -> None:
    kernels: tuple[Any, ...] = (few_rows, few_queries, many_queries)
    for function in (compiled, *(kernel._function for kernel in kernels)):
        function.cache_clear()


@pytest.fixture(autouse=True)
def _afresh() -> Iterator[None]:
    forget()
    yield
    forget()


def test_without_a_compiler_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_COMPILERS", ("no-such-compiler",))
    assert not has_few_rows()
    with pytest.raises(RuntimeError, match="no compiled product"):
        by_few_rows(torch.ones(1, 2, 3), store_by_columns(torch.ones(4, 3)))
    states = torch.ones(1, 2, 1, 8)
    assert not can_attend(states, states, states)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    assert not has_many_queries()


def test_a_compiler_that_fails_is_reported(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "_COMPILERS", ("false",))
    assert not has_few_rows()
    assert "could not be compiled" in caplog.text
