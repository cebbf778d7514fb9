"""Activations as int8: how far values come back from what they were, and that nothing else decides over them."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from swarm.wire.int8_blocks import code, decode
from swarm.wire.tensor_size import BLOCK_VALUES

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
quick = settings(max_examples=150, deadline=None, derandomize=True, database=None)


def through(tensor: Tensor) -> Tensor:
    return decode(*code(tensor), tensor.dtype)


@st.composite
def activations(draw: st.DrawFn) -> Tensor:
    """Any shape that travels, any finite magnitude, some zeros and outliers."""
    shape = [draw(st.integers(1, 3)), draw(st.integers(1, 4)), draw(st.integers(1, 200))]
    if draw(st.booleans()):
        shape.insert(2, draw(st.integers(1, 3)))
    dtype = draw(st.sampled_from(DTYPES))
    dice = torch.Generator().manual_seed(draw(st.integers(0, 1 << 20)))
    greatest = math.log2(torch.finfo(dtype).max)
    power = draw(st.floats(-40.0, greatest, exclude_max=True)) if draw(st.booleans()) else 0.0
    numbers = torch.randn(shape, generator=dice, dtype=torch.float64) * 2.0**power
    numbers[torch.rand(shape, generator=dice) < draw(st.sampled_from([0.0, 0.01, 0.5, 1.0]))] = 0.0
    numbers[torch.rand(shape, generator=dice) < draw(st.sampled_from([0.0, 0.01]))] *= 1000
    limit = torch.finfo(dtype).max
    found: Tensor = numbers.clamp(-limit, limit).to(dtype)
    return found


def bounds(tensor: Tensor) -> Tensor:
    """How far each value may come back from what it was: half a step, and half a unit of its dtype's last place."""
    length = tensor.shape[-1]
    padded = torch.nn.functional.pad(tensor.double().abs(), (0, -length % BLOCK_VALUES))
    greatest = padded.unflatten(-1, (-1, BLOCK_VALUES)).amax(-1)  # type: ignore[no-untyped-call]
    greatest = greatest.repeat_interleave(BLOCK_VALUES, dim=-1)[..., :length]
    info = torch.finfo(tensor.dtype)
    rounding = (
        0.0 if tensor.dtype == torch.float32 else greatest * info.eps / 2 + info.smallest_normal * info.eps
    )
    found: Tensor = greatest / 254 * (1 + 1e-6) + rounding + 127 * torch.finfo(torch.float32).tiny
    return found


@quick
@given(activations())
def test_every_value_comes_back_within_the_stated_error(tensor: Tensor) -> None:
    back = through(tensor)
    assert (back.dtype, back.shape) == (tensor.dtype, tensor.shape)
    assert bool(((back.double() - tensor.double()).abs() <= bounds(tensor)).all())


@quick
@given(activations())
def test_what_was_decoded_is_coded_again_without_loss(tensor: Tensor) -> None:
    once = through(tensor)
    assert torch.equal(through(once), once)


@quick
@given(activations(), st.integers(1, 3))
def test_a_token_decodes_alike_with_whatever_others_it_travels(tensor: Tensor, size: int) -> None:
    pieces = [through(piece) for piece in torch.split(tensor, size, dim=1)]
    assert torch.equal(torch.cat(pieces, dim=1), through(tensor))
    rows = [through(tensor[i : i + 1]) for i in range(tensor.shape[0])]
    assert torch.equal(torch.cat(rows), through(tensor))
    assert torch.equal(through(tensor.transpose(0, 1)).transpose(0, 1), through(tensor))


@quick
@given(st.integers(0, (1 << 32) - 1))
def test_any_float_with_any_neighbour_is_coded_again_without_loss(bits: int) -> None:
    numbers = (
        torch.tensor([bits, bits ^ 0x00451234, 0], dtype=torch.int64).to(torch.int32).view(torch.float32)
    )
    once = through(numbers.reshape(1, 1, 3))
    assert torch.equal(through(once).nan_to_num(7.0), once.nan_to_num(7.0))


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_greatest_numbers_stay_finite(dtype: torch.dtype) -> None:
    limit = torch.finfo(dtype).max
    back = through(torch.tensor([[[limit, -limit, 0.0, 1.0]]], dtype=dtype))
    assert bool(back.isfinite().all())
    assert back[0, 0, 0] >= limit * (1 - 2**-15)
    assert back[0, 0, 1] == -back[0, 0, 0]


@pytest.mark.parametrize("dtype", DTYPES)
def test_zeros_are_zeros(dtype: torch.dtype) -> None:
    zeros = torch.zeros(1, 2, 70, dtype=dtype)
    assert torch.equal(through(zeros), zeros)


@pytest.mark.parametrize("odd", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_block_that_is_not_finite_comes_back_as_nans_and_spoils_no_other(
    dtype: torch.dtype, odd: float
) -> None:
    tensor = torch.ones(1, 2, 130, dtype=dtype)
    tensor[0, 1, 70] = odd
    back = through(tensor)
    is_nan = back.isnan()
    assert bool(is_nan[0, 1, 64:128].all())
    assert int(is_nan.sum()) == BLOCK_VALUES


def test_numbers_too_small_for_a_scale_become_zeros() -> None:
    tensor = torch.tensor([[[1e-37, -1e-40, 1e-45]]])
    assert torch.equal(through(tensor), torch.zeros(1, 1, 3))


def test_values_that_nobody_codes_decode_into_something_defined() -> None:
    values = torch.tensor([[[-128, 127]]], dtype=torch.int8)
    assert decode(values, torch.tensor([[[2.0]]]), torch.float32).tolist() == [[[-256.0, 254.0]]]
    assert decode(values, torch.tensor([[[math.inf]]]), torch.float32).tolist() == [[[-math.inf, math.inf]]]
