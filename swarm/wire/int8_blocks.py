"""Activations as int8: blocks of 64 values along the last dimension, each with a float32 scale.

A scale is the greatest magnitude of its block / 127, cut to 16 bits of significand. A value comes back within half of
that, greatest magnitude / 254, and what the dtype itself rounds. Every value depends on its own block alone, and every
operation is one that IEEE 754 defines to the last bit: a token decodes into the same values on any machine, with
whatever others it travels. What was decoded is coded again without any loss, so it may pass on over any number of hops.

Blocks that have no such scale: one with a NaN or an infinity decodes into NaNs; one whose scale would be below the
smallest normal float32 decodes into zeros.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from swarm.wire.tensor_size import BLOCK_VALUES

if TYPE_CHECKING:
    import torch

MOST = 127
_SHORT = ~0xFF


def code(tensor: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Values `[..., d]` as int8 `[..., d]` and scales `[..., blocks]`, on the CPU."""
    import torch

    blocks = _blocks(tensor.detach().to("cpu", torch.float32))
    scale = blocks.abs().amax(dim=-1, keepdim=True) / MOST
    scale = (scale.view(torch.int32) & _SHORT).view(torch.float32)  # its multiples are exact
    scale = scale.where(scale.isfinite(), torch.nan)
    scale = scale.masked_fill_(scale < torch.finfo(torch.float32).tiny, 0.0)
    steps = (blocks / scale).round_().nan_to_num_(nan=0.0, posinf=0.0, neginf=0.0)
    return _values(steps.to(torch.int8), tensor.shape[-1]), scale.squeeze(-1)


def decode(values: torch.Tensor, scales: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """The reverse of `code`, in `dtype`."""
    import torch

    decoded = _blocks(values).to(torch.float32) * scales.unsqueeze(-1)
    return _values(decoded, values.shape[-1]).to(dtype)


def _blocks(flat: torch.Tensor) -> torch.Tensor:
    """`[..., d]` as `[..., blocks, 64]`, zeros at the end."""
    import torch

    lacking = -flat.shape[-1] % BLOCK_VALUES
    padded = torch.nn.functional.pad(flat, (0, lacking)) if lacking else flat
    return padded.reshape(*flat.shape[:-1], -1, BLOCK_VALUES)


def _values(blocks: torch.Tensor, length: int) -> torch.Tensor:
    """The reverse of `_blocks`."""
    return blocks.flatten(-2)[..., :length].contiguous()
