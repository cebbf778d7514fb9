"""The cache of a conversation between its turns: of a prompt, only what is new has to be computed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

from swarm.shards.causal import cache_argument
from swarm.shards.remote import RemoteCache
from swarm.shards.remote_layers import RemoteLayers


class Dialogue:
    """One session that goes on over several calls of `generate()`; closing it ends the session on every hop.

        prompt = [...]
        try:
            tokens = model.generate(ids, **dialogue.arguments(prompt, max_tokens=128))
        finally:
            dialogue.note(prompt + tokens)

    Args:
        cache_name: the argument under which the model takes its cache.
    """

    def __init__(self, layers: RemoteLayers, cache_name: str) -> None:
        self._layers = layers
        self._cache_name = cache_name
        self._cache: RemoteCache | None = None
        self._ids: list[int] = []

    @classmethod
    def of(cls, model: Any) -> Self:
        """A conversation with a `SwarmModel`."""
        return cls(model.remote_layers, cache_argument(type(model)))

    def arguments(self, prompt: Sequence[int], max_tokens: int) -> dict[str, Any]:
        """Arguments of `generate()` for a prompt, whose beginning need not be computed as far as it is cached."""
        if self._cache is None:
            self._cache = self._layers.new_cache(max_tokens=len(prompt) + max_tokens)
        reused = min(_common(self._ids, prompt), len(prompt) - 1)  # the last token gives the first logits
        surplus = self._cache.length - reused
        if surplus and not self._cache.is_croppable:
            self._cache.close()
        elif surplus:
            self._cache.crop(surplus)
        return {self._cache_name: self._cache}

    def note(self, ids: Sequence[int]) -> None:
        """These tokens are the prompt and what was generated; the last of them has not gone through the model yet."""
        self._ids = list(ids[:-1][: self.cached])

    @property
    def cached(self) -> int:
        """Tokens that the hops hold."""
        return self._cache.length if self._cache is not None else 0

    def close(self) -> None:
        """Forget everything; the next prompt begins a new session."""
        if self._cache is not None:
            self._cache.close()
        self._cache, self._ids = None, []


def _common(left: Sequence[int], right: Sequence[int]) -> int:
    """Length of the beginning that both share."""
    pairs = zip(left, right, strict=False)
    return next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(left), len(right)))
