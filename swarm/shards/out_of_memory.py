"""Whether an error says that memory did not suffice, whoever raised it."""

from __future__ import annotations

# torch on devices, whose error is a RuntimeError; torch's CPU allocator; mmap
_TELLS = ("out of memory", "can't allocate memory", "Cannot allocate memory")


def is_out_of_memory(error: BaseException) -> bool:
    """By what it says; torch need not be imported for that."""
    if isinstance(error, MemoryError):
        return True
    return isinstance(error, RuntimeError | OSError) and any(words in str(error) for words in _TELLS)
