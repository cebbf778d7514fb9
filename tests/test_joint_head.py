"""The head of a client: sessions that meet there get what each would get alone."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn

from swarm.client import joint_head
from swarm.client.joint_head import MOST_ROWS, JointHead, join_head
from swarm.shards.few_rows import has_few_rows

HIDDEN, VOCABULARY = 64, 1 << 14


@pytest.fixture
def head() -> JointHead:
    torch.manual_seed(0)
    layer = nn.Linear(HIDDEN, VOCABULARY)
    assert join_head(model_with(layer))
    assert isinstance(layer, JointHead)
    return layer


def model_with(layer: nn.Module | None, embeddings: nn.Module | None = None) -> Any:
    return SimpleNamespace(get_output_embeddings=lambda: layer, get_input_embeddings=lambda: embeddings)


class Gate:
    """Holds the first product until `opened`, and notes how many rows each product had."""

    def __init__(self) -> None:
        self.opened, self.entered = threading.Event(), threading.Event()
        self.groups: list[int] = []
        self._products = joint_head._products

    def __call__(self, rows: list[Tensor], weight: Tensor) -> list[Tensor]:
        self.groups.append(len(rows))
        self.entered.set()
        assert self.opened.wait(30)
        return self._products(rows, weight)


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    gate = Gate()
    monkeypatch.setattr(joint_head, "_products", gate)
    yield gate
    gate.opened.set()


@torch.no_grad()
def multiply(head: JointHead, states: Tensor) -> Tensor:
    return cast(Tensor, head(states))


def test_who_comes_while_another_is_computed_is_computed_together(head: JointHead, gate: Gate) -> None:
    count = MOST_ROWS + 5
    states = [torch.randn(1, 1, HIDDEN) for _ in range(count)]
    with ThreadPoolExecutor(count) as threads:
        first = threads.submit(multiply, head, states[0])
        assert gate.entered.wait(30)
        others = [threads.submit(multiply, head, row) for row in states[1:]]
        while len(head.meeting._waiting) < count - 1:  # the first product is held until all others wait
            threading.Event().wait(0.001)
        gate.opened.set()
        found = [future.result() for future in (first, *others)]
    assert gate.groups == [1, MOST_ROWS, 4]
    for row, logits in zip(states, found, strict=True):
        assert logits.shape == (1, 1, VOCABULARY)
        torch.testing.assert_close(logits, nn.functional.linear(row, head.weight, head.bias))


def test_the_first_one_waits_for_those_that_are_announced(
    head: JointHead, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(joint_head, "PATIENCE_S", 30.0)
    gate.opened.set()
    ready, may_go = threading.Barrier(3), threading.Event()

    def late() -> Tensor:
        head.meeting.announce(threading.get_ident())
        ready.wait(30)
        assert may_go.wait(30)
        return multiply(head, torch.ones(1, 1, HIDDEN))

    with ThreadPoolExecutor(3) as threads:
        others = [threads.submit(late) for _ in range(2)]
        ready.wait(30)
        first = threads.submit(multiply, head, torch.zeros(1, 1, HIDDEN))
        while not head.meeting._waiting:
            threading.Event().wait(0.001)
        may_go.set()
        found = [future.result(30) for future in (first, *others)]
    assert gate.groups == [3]
    assert torch.equal(found[0], head.bias.view(1, 1, -1))
    assert torch.equal(found[1], found[2])


def test_who_never_comes_is_waited_for_once(head: JointHead, gate: Gate) -> None:
    gate.opened.set()
    head.meeting.announce(-1)
    for _ in range(2):
        assert multiply(head, torch.randn(1, 1, HIDDEN)).shape == (1, 1, VOCABULARY)
        assert not head.meeting._announced
    assert gate.groups == [1, 1]


def used(head: JointHead) -> Tensor:
    """The weights after so much use that a trial of them has ended."""
    found = [multiply(head, torch.randn(1, 1, HIDDEN)) for _ in range(joint_head._PRACTICE_ROWS)]
    assert len(found) == joint_head._PRACTICE_ROWS
    for thread in threading.enumerate():
        if thread.name == "swarm-head":
            thread.join(60)
    return head.weight


@pytest.mark.parametrize("by_columns_s", [0.5, 2.0])
def test_weights_are_stored_by_columns_where_that_is_faster(
    head: JointHead, monkeypatch: pytest.MonkeyPatch, by_columns_s: float
) -> None:
    if not has_few_rows():
        pytest.skip("no C compiler")
    monkeypatch.setattr(
        joint_head, "_seconds", lambda _, weight: 1.0 if weight.is_contiguous() else by_columns_s
    )
    states = torch.randn(1, 5, HIDDEN)
    before = [multiply(head, states), multiply(head, states[:, :1])]
    weight = used(head)
    assert weight.is_contiguous() == (by_columns_s > 1)
    after = [multiply(head, states), multiply(head, states[:, :1])]
    torch.testing.assert_close(before, after)
    one = torch.randn(1, 1, HIDDEN, requires_grad=True)
    head(one).sum().backward()
    assert one.grad is not None
    many = torch.randn(1, 2 * MOST_ROWS, HIDDEN)
    torch.testing.assert_close(multiply(head, many), nn.functional.linear(many, head.weight, head.bias))


def test_weights_that_the_embeddings_use_stay_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(joint_head, "_seconds", lambda _, weight: float(weight.is_contiguous()))
    embeddings, layer = nn.Embedding(VOCABULARY, HIDDEN), nn.Linear(HIDDEN, VOCABULARY)
    layer.weight = embeddings.weight
    assert join_head(model_with(layer, embeddings))
    assert used(cast(JointHead, layer)).is_contiguous()


def test_a_failure_meets_everybody_who_was_in_it_and_nobody_else(
    head: JointHead, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate.opened.set()
    with pytest.raises(RuntimeError):
        head.meeting.product(torch.randn(1, 1, HIDDEN + 1), head.weight)
    assert multiply(head, torch.randn(1, 1, HIDDEN)).shape == (1, 1, VOCABULARY)


def test_several_tokens_and_gradients_are_as_usual(head: JointHead, gate: Gate) -> None:
    states = torch.randn(1, MOST_ROWS + 1, HIDDEN)
    assert torch.equal(multiply(head, states), nn.functional.linear(states, head.weight, head.bias))
    one = torch.randn(1, 1, HIDDEN, requires_grad=True)
    head(one).sum().backward()
    assert one.grad is not None
    assert gate.groups == []


@pytest.mark.parametrize(
    "layer", [None, nn.Linear(8, 8), nn.Linear(HIDDEN, VOCABULARY, dtype=torch.bfloat16)]
)
def test_small_heads_and_other_precisions_stay_as_they_are(layer: nn.Module | None) -> None:
    assert not join_head(model_with(layer))
    assert layer is None or type(layer) is nn.Linear
