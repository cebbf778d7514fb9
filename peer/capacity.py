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
    """What one layer costs and what there is, in bytes."""

    free_bytes: int
    layer_bytes: int
    cache_bytes_per_layer_token: int

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
        fits = self.budget_bytes // max(self.layer_bytes + tokens * self.cache_bytes_per_layer_token, 1)
        if fits < 1:
            raise ModelError(
                f"not even one layer fits: it needs {_mib(self.layer_bytes)} and {tokens} tokens of cache "
                f"{_mib(tokens * self.cache_bytes_per_layer_token)}, {_mib(self.budget_bytes)} are usable: "
                "free memory, lower --cache-tokens, or use --quantize"
            )
        return min(fits, most)

    def cache_tokens_that_fit(self, layers: int) -> int:
        """Token rows of cache beside this many layers: the default, or less where memory is short.

        Raises:
            ModelError: if the layers leave no useful room.
        """
        per_token = max(layers * self.cache_bytes_per_layer_token, 1)
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


def cache_bytes_per_layer_token(config: Any, itemsize: int) -> int:
    """Bytes of K and V of one layer and one token row, plus a layer's share of the kept outputs.

    Read from the configuration before anything is loaded; latent or recurrent caches are smaller than this.
    """
    hidden = int(config.hidden_size)
    heads = int(getattr(config, "num_attention_heads", None) or 1)
    kv_heads = int(getattr(config, "num_key_value_heads", None) or heads)
    head_dim = int(getattr(config, "head_dim", None) or hidden // heads)
    return (2 * kv_heads * head_dim + hidden) * itemsize


def check_explicit_cache(cache_tokens: int) -> None:
    """Refuse cache sizes that cannot hold a single page.

    Raises:
        ConfigError: below 64 tokens.
    """
    if cache_tokens < 64:
        raise ConfigError(f"--cache-tokens is {cache_tokens}; a page is 64 tokens, so at least 64 are needed")


def _mib(size: int) -> str:
    return f"{max(size, 0) / 1024**2:,.0f} MiB"
