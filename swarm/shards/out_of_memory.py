"""Whether an error says that memory did not suffice, whoever raised it."""

from __future__ import annotations

import torch

_CPU_TELLS = ("can't allocate memory", "Cannot allocate memory")  # torch's CPU allocator; mmap


def is_out_of_memory(error: BaseException) -> bool:
    """Python and devices have classes for it; on the CPU torch raises a plain RuntimeError."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError | OSError) and any(words in str(error) for words in _CPU_TELLS)
