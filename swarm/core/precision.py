"""Names of what a peer computes in: a dtype, with the quantisation of its weights behind a plus sign."""

from __future__ import annotations

from swarm.core.config import Quantization


def precision_name(dtype: str, quantize: Quantization | None) -> str:
    """For example `float32` or `bfloat16+nf4`; a chain uses one precision only, so that reroutes stay exact."""
    return dtype if quantize is None else f"{dtype}+{quantize}"


def dtype_of(precision: str) -> str:
    """The dtype in which activations of this precision travel."""
    return precision.partition("+")[0]
