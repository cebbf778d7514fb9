"""The hash chain over a session's inputs, by which hops recognise sequences that begin alike."""

from __future__ import annotations

from hashlib import blake2b

import torch
from torch import Tensor

from swarm.core.config import Coding
from swarm.core.prefix_index import BLOCK_TOKENS
from swarm.shards.history import History
from swarm.wire.message import MAX_PREFIX_BLOCKS

HASH_BYTES = 16


class BlockHashes:
    """One hash for every full block of a history: of the hash before it and of every tensor the client sends for it.

    The first one covers the coding, too: other activations on the wire make other caches.
    """

    def __init__(self, coding: Coding | None = None) -> None:
        self._root = (coding or "").encode()
        self._hashes: list[bytes] = []

    def of(self, history: History) -> tuple[bytes, ...]:
        """The chain of a history that grew since the last call; empty for several rows and for padded ones."""
        blocks = min(history.length // BLOCK_TOKENS, MAX_PREFIX_BLOCKS)
        if not blocks or history.rows != 1 or history.slice(0, history.length).mask is not None:
            return ()
        for block in range(len(self._hashes), blocks):
            named = history.slice(block * BLOCK_TOKENS, (block + 1) * BLOCK_TOKENS).named()
            self._hashes.append(_digest(self._hashes[-1] if block else self._root, named))
        return tuple(self._hashes)

    def truncate(self, length: int) -> None:
        """The history changes from position `length` on."""
        del self._hashes[length // BLOCK_TOKENS :]


def _digest(before: bytes, named: dict[str, Tensor]) -> bytes:
    digest = blake2b(before, digest_size=HASH_BYTES)
    for name in sorted(named):
        tensor = named[name].contiguous()
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        digest.update(tensor.view(torch.uint8).numpy().data)
    return digest.digest()
