"""Operations of recorded layers, translated into C, compute what torch computes, or are refused."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from swarm.shards.c_function import Buffer, Untranslatable, place
from swarm.shards.compiled_layers import CompiledLayers
from swarm.shards.rehearsal import LayerInputs
from swarm.shards.translation import Translation, translated

WIDTH = 20  # no multiple of a vector
HEADS, HEAD = 2, 8
EXTRA = 4

Layer = Callable[..., Tensor]
"""Of the hidden state `[1, 1, WIDTH]` and one more tensor `[1, 1, EXTRA]`."""


@cache
def draw(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


def example() -> list[Tensor]:
    """Inputs of a layer: hidden state, position, buffers and views of keys and values, and one more tensor."""
    buffers = [draw(1, HEADS, 16, HEAD).clone() for _ in range(2)]
    return [
        draw(1, 1, WIDTH),
        torch.tensor([5]),
        *buffers,
        *(b[..., :6, :] for b in buffers),
        draw(1, 1, EXTRA),
    ]


def translation_of(layer: Callable[..., Tensor], inputs: list[Tensor] | None = None) -> Translation:
    """That of a function of all inputs of a layer."""
    inputs = inputs or example()
    with warnings.catch_warnings(), torch.inference_mode():
        warnings.simplefilter("ignore")
        layer(*[tensor.clone() for tensor in inputs])  # what it draws is a constant from now on
        traced: Any = torch.jit.trace(layer, tuple(inputs), check_trace=False)  # type: ignore[no-untyped-call]
    graph = traced.graph.copy()
    for simplify in (torch._C._jit_pass_constant_propagation, torch._C._jit_pass_dce):
        simplify(graph)
    return translated(graph, inputs)


def check(layer: Layer, *, rows: int = 3, scale: float = 1.0) -> None:
    """Compare the compiled layer with torch, row by row; its result is as wide as the hidden state."""
    translation = translation_of(lambda hidden, at, kb, vb, k, v, extra: layer(hidden, extra))
    program = CompiledLayers.compile([translation]).program(0, 1)
    hidden, extra = draw(1, rows, WIDTH) * scale, draw(1, rows, EXTRA)
    views = tuple(example()[2:6])
    run = program.ready([5] * rows, [LayerInputs([views] * rows, [extra])])  # type: ignore[list-item]
    assert run is not None
    found = run(hidden)
    for row in range(rows):
        expected = layer(hidden[:, row : row + 1], extra[:, row : row + 1])
        torch.testing.assert_close(found[:, row : row + 1], expected, rtol=1e-5, atol=1e-5, equal_nan=True)


@cache
def columns(*shape: int) -> Tensor:
    """A matrix stored by columns."""
    return draw(*shape).t().contiguous().t()


SQUARE = draw(WIDTH, WIDTH)
DOUBLE = draw(WIDTH).double()
MASK = torch.ones(1, 6, dtype=torch.bool)
LAYERS: dict[str, Layer] = {
    "sums and products": lambda h, e: (h + 2) * h - h / 3 + 1.5 * h,
    "one number for all": lambda h, e: h * h.pow(2).mean(-1, keepdim=True).add(1e-6).rsqrt(),
    "a weight": lambda h, e: draw(WIDTH) * h,
    "broadcast": lambda h, e: (h.view(1, 1, 5, 4) * e[:, :, None]).reshape(1, 1, WIDTH),
    "broadcast over the last": lambda h, e: (h.view(1, 1, 4, 5) + e.view(1, 1, 4, 1)).flatten(2),
    "transposed copy": lambda h, e: h.view(1, 1, 4, 5).transpose(2, 3).reshape(1, 1, WIDTH),
    "transposed twice": lambda h, e: h.view(1, 4, 5).transpose(1, 2).contiguous().view(1, 1, WIDTH) + h,
    "halves turned": lambda h, e: torch.cat([-h[..., 10:], h[..., :10]], dim=-1),
    "pairs turned": lambda h, e: torch.stack([-h[..., 1::2], h[..., ::2]], dim=-1).flatten(-2),
    "repeated": lambda h, e: e.repeat_interleave(5, dim=-1) * h,
    "split": lambda h, e: torch.cat(list(reversed(h.split([7, 5, 8], dim=-1))), dim=-1),
    "chunks": lambda h, e: torch.cat([part * i for i, part in enumerate(h.chunk(4, dim=-1))], dim=-1),
    "selected": lambda h, e: h.view(1, 1, 2, 10).select(2, 1).repeat_interleave(2, dim=-1),
    "mean of lines": lambda h, e: (
        h - h.view(1, 1, 4, 5).mean(-1, keepdim=True).repeat_interleave(5, -1).flatten(2)
    ),
    "squares": lambda h, e: h.square() + h**3 + h.abs().sqrt() + h.neg(),
    "relu": lambda h, e: functional.relu(h),
    "silu": lambda h, e: functional.silu(h),
    "sigmoid, tanh, exp": lambda h, e: h.sigmoid() + h.tanh() + (-h.abs()).exp(),
    "gelu": lambda h, e: functional.gelu(h),
    "gelu by tanh": lambda h, e: functional.gelu(h, approximate="tanh"),
    "norm": lambda h, e: functional.layer_norm(h, (WIDTH,), draw(WIDTH), draw(WIDTH, 1).flatten(), 1e-5),
    "norm without weights": lambda h, e: functional.layer_norm(h, (WIDTH,)),
    "norm of lines": lambda h, e: functional.layer_norm(h.view(1, 1, 4, 5), (5,), draw(5)).flatten(2),
    "product by rows": lambda h, e: functional.linear(h, SQUARE),
    "product by columns": lambda h, e: functional.linear(h, columns(WIDTH, WIDTH)),
    "product of a part": lambda h, e: functional.linear(h[..., 3:16], draw(WIDTH, 13)),
    "product of the first part": lambda h, e: functional.linear(h[..., :13], draw(WIDTH, 13)),
    "product of the first part of a sum": lambda h, e: functional.linear((h + 1)[..., :13], draw(WIDTH, 13)),
    "product with bias": lambda h, e: functional.linear(h, SQUARE, draw(WIDTH)) + h,
    "product with gaps": lambda h, e: functional.linear(h, columns(2 * WIDTH, WIDTH)[WIDTH:]),
    "addmm": lambda h, e: torch.addmm(draw(WIDTH), h.view(1, WIDTH), SQUARE).view(1, 1, WIDTH),
    "wider, and back": lambda h, e: functional.linear(functional.linear(h, draw(37, WIDTH)), draw(WIDTH, 37)),
    "dropout at rest": lambda h, e: (
        functional.dropout(h, training=False) + functional.linear(e, draw(WIDTH, EXTRA))
    ),
}
pytestmark = pytest.mark.slow


@pytest.mark.parametrize("name", LAYERS)
def test_operations_compute_what_torch_computes(name: str) -> None:
    check(LAYERS[name])


@pytest.mark.parametrize("rows", [1, 2, 7])
def test_any_number_of_rows(rows: int) -> None:
    def layer(hidden: Tensor, extra: Tensor) -> Tensor:
        product = functional.linear(hidden, columns(WIDTH, WIDTH))
        return functional.silu(product) * hidden + extra.repeat_interleave(5, -1)

    check(layer, rows=rows)


@pytest.mark.parametrize("name", ["silu", "gelu by tanh", "sigmoid, tanh, exp", "gelu"])
@pytest.mark.parametrize("scale", [1e-3, 30.0, 1e4, float("nan")])
def test_very_small_and_very_large_numbers(name: str, scale: float) -> None:
    check(LAYERS[name], scale=scale)


def attending(hidden: Tensor, at: Tensor, key_buffer: Tensor, value_buffer: Tensor, *rest: Tensor) -> Tensor:
    """Writes the token into the cache, and attends to all that is in it."""
    key, value, _ = rest
    states = (
        functional.linear(hidden, draw(2 * HEADS * HEAD, WIDTH)).view(1, 1, 2 * HEADS, HEAD).transpose(1, 2)
    )
    key_buffer.index_copy_(2, at, states[:, :HEADS])
    value_buffer.index_copy_(2, at, states[:, HEADS:])
    query = functional.linear(hidden, draw(2 * HEADS * HEAD, WIDTH)).view(1, HEADS, 2, HEAD)
    found = functional.scaled_dot_product_attention(query, key, value, scale=0.3)
    return functional.linear(found.transpose(1, 2).reshape(1, 1, -1), draw(WIDTH, 2 * HEADS * HEAD))


def test_rows_attend_to_caches_of_their_own() -> None:
    lengths = [5, 1, 9]
    program = CompiledLayers.compile([translation_of(attending)]).program(0, 1)
    hidden, extra = draw(1, 3, WIDTH), draw(1, 3, EXTRA)
    buffers = [[torch.randn(1, HEADS, 16 + row, HEAD) for _ in range(2)] for row in range(3)]
    expected = []
    for row, (length, pair) in enumerate(zip(lengths, buffers, strict=True)):
        copies = [buffer.clone() for buffer in pair]
        views = [copy[..., : length + 1, :] for copy in copies]
        expected.append(
            (attending(hidden[:, row : row + 1], torch.tensor([length]), *copies, *views, extra), copies)
        )
    caches = [(*pair, *pair) for pair in buffers]
    run = program.ready(lengths, [LayerInputs(caches, [extra])])  # type: ignore[arg-type]
    assert run is not None
    found = run(hidden)
    for row, (output, copies) in enumerate(expected):
        torch.testing.assert_close(found[:, row : row + 1], output, rtol=1e-5, atol=1e-5)
        for mine, theirs in zip(buffers[row], copies, strict=True):
            torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-5)


def test_each_layer_gets_tensors_of_its_own() -> None:
    def layer(
        hidden: Tensor, at: Tensor, kb: Tensor, vb: Tensor, k: Tensor, v: Tensor, extra: Tensor
    ) -> Tensor:
        return hidden * extra.repeat_interleave(5, -1)

    program = CompiledLayers.compile([translation_of(layer)] * 3).program(0, 3)
    hidden, extras = draw(1, 2, WIDTH), [draw(1, 2, EXTRA) + number for number in range(3)]
    caches = [tuple(example()[2:6])] * 2
    run = program.ready([5, 5], [LayerInputs(caches, [extra]) for extra in extras])  # type: ignore[arg-type]
    assert run is not None
    expected = hidden
    for extra in extras:
        expected = expected * extra.repeat_interleave(5, -1)
    torch.testing.assert_close(run(hidden), expected)


def test_inputs_of_another_form_do_not_run() -> None:
    translation = translation_of(
        lambda hidden, at, kb, vb, k, v, extra: hidden * extra.repeat_interleave(5, -1)
    )
    program = CompiledLayers.compile([translation]).program(0, 1)
    caches = [tuple(example()[2:6])] * 2
    for extra in (draw(1, 1, EXTRA), draw(1, 2, EXTRA + 1), draw(1, 2, EXTRA).double(), draw(1, EXTRA, 2).mT):
        assert program.ready([5, 5], [LayerInputs(caches, [extra])]) is None  # type: ignore[arg-type]
    assert program.ready([5, 5], [LayerInputs(caches, [draw(1, 2, EXTRA)])]) is not None  # type: ignore[arg-type]


REFUSED: dict[str, Callable[..., Tensor]] = {
    "aten::cumsum": lambda h, at, kb, vb, k, v, e: h.cumsum(-1),
    "aten::mul_": lambda h, at, kb, vb, k, v, e: (h + 1).mul_(2),
    "another precision": lambda h, at, kb, vb, k, v, e: h.to(torch.float64).to(torch.float32),
    "a constant of": lambda h, at, kb, vb, k, v, e: (
        h + torch.ones(WIDTH, dtype=torch.float64).requires_grad_(False)[:1]
    ),
    "a power of": lambda h, at, kb, vb, k, v, e: h**1.5,
    "a sum with a factor": lambda h, at, kb, vb, k, v, e: torch.add(h, h, alpha=2),
    "a mean over": lambda h, at, kb, vb, k, v, e: (
        h.view(1, 1, 4, 5).mean(2, keepdim=True).expand(1, 1, 4, 5).flatten(2)
    ),
    "a tensor was expected": lambda h, at, kb, vb, k, v, e: h + k.mean([-1], keepdim=True)[:, 0, :1],
    "two states": lambda h, at, kb, vb, k, v, e: functional.linear(h, h.view(1, WIDTH).expand(WIDTH, WIDTH)),
    "a part of the cache": lambda h, at, kb, vb, k, v, e: functional.scaled_dot_product_attention(
        draw(1, HEADS, 1, HEAD), k, v, attn_mask=MASK
    ).view(1, 1, -1),
}


@pytest.mark.parametrize("reason", REFUSED)
def test_what_is_not_known_is_refused(reason: str) -> None:
    with pytest.raises(Untranslatable, match=reason):
        translation_of(REFUSED[reason])


def test_heads_that_fill_no_vector_are_refused() -> None:
    inputs = example()
    for index in range(2, 6):
        inputs[index] = inputs[index][..., :6].contiguous()

    def layer(
        hidden: Tensor, at: Tensor, kb: Tensor, vb: Tensor, key: Tensor, value: Tensor, extra: Tensor
    ) -> Tensor:
        query = hidden[..., :12].view(1, HEADS, 1, 6)
        return functional.scaled_dot_product_attention(query, key, value).view(1, 1, 12)

    with pytest.raises(Untranslatable, match="heads of 6 and 6"):
        translation_of(layer, inputs)


@pytest.mark.parametrize("index", [0, 2, 5])
def test_states_of_another_precision_are_refused(index: int) -> None:
    inputs = example()
    inputs[index] = inputs[index].double()
    with pytest.raises(Untranslatable, match=r"states of torch.float64"):
        translation_of(lambda h, at, kb, vb, k, v, e: h * 2, inputs)


def test_arguments_that_are_not_of_one_token_are_refused_when_they_are_used() -> None:
    inputs = [*example()[:6], draw(3, EXTRA)]
    translation_of(lambda h, at, kb, vb, k, v, e: h * 2, inputs)
    with pytest.raises(Untranslatable, match="an argument of the form"):
        translation_of(lambda h, at, kb, vb, k, v, e: h * e.sum(), inputs)


@given(st.lists(st.tuples(st.integers(1, 4), st.integers(0, 6)), min_size=1, max_size=30))
def test_memory_that_is_in_use_is_not_given_away(drawn: list[tuple[int, int]]) -> None:
    buffers = [Buffer(size, first, first + lasts) for first, (size, lasts) in enumerate(drawn)]
    end = place(buffers)
    for buffer in buffers:
        assert 0 <= buffer.offset <= end - buffer.size
        for other in buffers:
            at_once = buffer is not other and buffer.first <= other.last and other.first <= buffer.last
            apart = buffer.offset + buffer.size <= other.offset or other.offset + other.size <= buffer.offset
            assert apart or not at_once
