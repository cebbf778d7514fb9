"""What a peer offers to everybody: which layers of which checkpoint, in which precision."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from torch import nn

from swarm.core.span import Span
from swarm.shards.shard import Shard


@dataclass(frozen=True)
class Offer:
    """A loaded shard with the facts that steps and sessions are checked against."""

    shard: Shard
    model_uid: str
    model_name: str
    precision: str
    layers: int

    @property
    def span(self) -> Span:
        return self.shard.span

    @property
    def vocab_size(self) -> int:
        return int(self.shard.config.vocab_size)

    @cached_property
    def tensors(self) -> frozenset[str]:
        """Names of the tensors that steps of this model may bring, besides carried values."""
        traits = self.shard.traits
        extra = {
            "token_ids": traits.needs_token_ids,
            "embeds": traits.needs_embeds,
            "per_layer": traits.per_layer_width > 0,
        }
        return frozenset({"hidden", "mask", "positions", *(name for name, needed in extra.items() if needed)})

    @cached_property
    def position_rows(self) -> int | None:
        """Rows of the model's table of positions; None where positions are computed (RoPE, ALiBi)."""
        tables = [m.num_embeddings for m in self.shard.stack.modules() if isinstance(m, nn.Embedding)]
        return min(tables, default=None)
