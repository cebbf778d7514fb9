"""Memory that is mapped for a tensor is there as long as the tensor or a view of it, and no longer."""

from __future__ import annotations

import psutil
import pytest
import torch

from swarm.shards.mapped import mapped_empty

CPU = torch.device("cpu")
MIB = 1 << 20


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.bool, torch.long])
@pytest.mark.parametrize("sizes", [(2, 3, 5), (4, 500, 130)])
def test_a_tensor_of_any_size_is_as_torch_would_make_it(sizes: tuple[int, ...], dtype: torch.dtype) -> None:
    tensor = mapped_empty(sizes, dtype, CPU)
    assert (tuple(tensor.shape), tensor.dtype, tensor.is_contiguous()) == (sizes, dtype, True)
    tensor.fill_(1)
    assert bool((tensor == 1).all())


def test_memory_goes_back_to_the_system_with_the_last_view() -> None:
    process = psutil.Process()
    before = process.memory_info().rss
    view = mapped_empty((64, MIB), torch.uint8, CPU).fill_(1)[3]
    assert process.memory_info().rss - before > 60 * MIB
    assert int(view.sum()) == MIB
    del view
    assert process.memory_info().rss - before < 8 * MIB
