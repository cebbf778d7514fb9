"""How many layers and how much cache fit on this device, from the checkpoint's true sizes and the free memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from swarm.core.errors import ConfigError, ModelError

DEFAULT_CACHE_TOKENS = 16384
LEAST_CACHE_TOKENS = 1024
OVERHEAD_BYTES = 512 * 1024**2
SHARE_OF_FREE_MEMORY = 0.85
QUANTIZED_BYTES_PER_WEIGHT = {"int8": 1.05, "nf4": 0.57}


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """What layers and cached tokens cost and what there is, in bytes.

    Attributes:
        layer_bytes: weights of the largest layer.
        kv_bytes: keys and values of one token row in one layer.
        kept_bytes: one token row of the outputs that are kept for replays.
    """

    free_bytes: int
    layer_bytes: int
    kv_bytes: int
    kept_bytes: int

    @property
    def budget_bytes(self) -> int:
        """Free memory less the share left to others and the stated overhead of the process."""
        return int(self.free_bytes * SHARE_OF_FREE_MEMORY) - OVERHEAD_BYTES

    def layers_that_fit(self, cache_tokens: int | None, most: int) -> int:
        """Layers with their cache that fit, at most `most`.

        Raises:
            ModelError: if not even one fits.
        """
        tokens = cache_tokens or DEFAULT_CACHE_TOKENS
        per_layer = max(self.layer_bytes + tokens * self.kv_bytes, 1)
        fits = (self.budget_bytes - tokens * self.kept_bytes) // per_layer
        if fits < 1:
            cache = tokens * (self.kv_bytes + self.kept_bytes)
            raise ModelError(
                f"not even one layer fits: it needs {_mib(self.layer_bytes)} and {tokens} tokens of cache "
                f"{_mib(cache)}, {_mib(self.budget_bytes)} are usable: free memory or lower --cache-tokens"
            )
        return min(fits, most)

    def check(self, layers: int, tokens: int) -> None:
        """Whether this many layers and token rows of cache fit together.

        Raises:
            ModelError: if they do not.
        """
        weights, cache = layers * self.layer_bytes, tokens * (layers * self.kv_bytes + self.kept_bytes)
        if weights + cache > self.budget_bytes:
            raise ModelError(
                f"{layers} layers need {_mib(weights)} and {tokens} tokens of cache {_mib(cache)}; "
                f"{_mib(self.budget_bytes)} are usable: lower --cache-tokens or serve fewer --layers"
            )

    def cache_tokens_that_fit(self, layers: int) -> int:
        """Token rows of cache beside this many layers: the default, or less where memory is short.

        Raises:
            ModelError: if the layers leave no useful room.
        """
        per_token = max(layers * self.kv_bytes + self.kept_bytes, 1)
        fits = (self.budget_bytes - layers * self.layer_bytes) // per_token
        if fits < LEAST_CACHE_TOKENS:
            raise ModelError(
                f"{layers} layers need {_mib(layers * self.layer_bytes)} and {LEAST_CACHE_TOKENS} tokens of cache, the "
                f"least, {_mib(LEAST_CACHE_TOKENS * per_token)}; {_mib(self.budget_bytes)} are usable: "
                "serve fewer --layers"
            )
        return min(fits, DEFAULT_CACHE_TOKENS)


def weight_factor(stored_itemsize: int, itemsize: int, quantize: str | None) -> float:
    """Bytes in memory per byte in the checkpoint."""
    if quantize is not None:
        return QUANTIZED_BYTES_PER_WEIGHT[quantize] / stored_itemsize
    return itemsize / stored_itemsize


def kv_bytes_per_token(config: Any, itemsize: int) -> int:
    """Bytes of keys and values of one token row in one layer.

    Read from the configuration before anything is loaded; latent or recurrent caches are smaller than this.
    """
    heads = int(getattr(config, "num_attention_heads", None) or 1)
    kv_heads = int(getattr(config, "num_key_value_heads", None) or heads)
    head_dim = int(getattr(config, "head_dim", None) or int(config.hidden_size) // heads)
    return 2 * kv_heads * head_dim * itemsize


def check_explicit_cache(cache_tokens: int) -> None:
    """Refuse cache sizes that cannot hold a single page.

    Raises:
        ConfigError: below 64 tokens.
    """
    if cache_tokens < 64:
        raise ConfigError(f"--cache-tokens is {cache_tokens}; a page is 64 tokens, so at least 64 are needed")


def _mib(size: int) -> str:
    return f"{max(size, 0) / 1024**2:,.0f} MiB"
