"""What travels through a chain: the new tokens of one session, as tensors.

Shapes: B rows, n new tokens, H hidden size, L layers still ahead (counted from the receiving hop's first layer),
P per-layer-input size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

_PLAIN = ("hidden", "mask", "positions", "token_ids", "embeds", "per_layer")


@dataclass(frozen=True, slots=True)
class StepTensors:
    """The tensors of a step at one layer boundary. Every tensor has rows first and tokens second.

    Attributes:
        hidden: hidden state `[B, n, H]` entering the next layer.
        mask: `[B, n]` bool, False where a token is padding; None means all True.
        positions: `[B, n]` int64 position ids; None means `start .. start + n - 1` in every row.
        token_ids: `[B, n]` int64, only for models whose layers look at token ids.
        embeds: `[B, n, H]` the input embeddings, only for models whose layers look at them.
        per_layer: `[B, n, L, P]` per-layer inputs of the layers still ahead (gemma3n, gemma4).
        carry: second, third, ... values which this architecture's layers hand to the next layer.
    """

    hidden: Tensor
    mask: Tensor | None = None
    positions: Tensor | None = None
    token_ids: Tensor | None = None
    embeds: Tensor | None = None
    per_layer: Tensor | None = None
    carry: tuple[Tensor | None, ...] = ()

    @property
    def rows(self) -> int:
        return self.hidden.shape[0]

    @property
    def tokens(self) -> int:
        return self.hidden.shape[1]

    @property
    def is_bare(self) -> bool:
        """Whether there is nothing but the hidden state, as in the usual step."""
        return (
            self.mask is self.positions is self.token_ids is self.embeds is self.per_layer is None
            and not self.carry
        )

    def named(self) -> dict[str, Tensor]:
        """The tensors that are present, by name; carried values as `carry.0`, `carry.1`, ..."""
        if self.is_bare:
            return {"hidden": self.hidden}
        found = {name: getattr(self, name) for name in _PLAIN}
        for i, value in enumerate(self.carry):
            found[f"carry.{i}"] = value
        return {name: value for name, value in found.items() if value is not None}

    @classmethod
    def joined(cls, parts: Sequence[StepTensors]) -> StepTensors:
        """Tensors of consecutive tokens as one; a mask or positions that some lack are left to `History`'s defaults."""
        names = [part.named() for part in parts]
        return cls.from_named({name: torch.cat([named[name] for named in names], dim=1) for name in names[0]})

    @classmethod
    def from_named(cls, tensors: dict[str, Tensor]) -> StepTensors:
        """The reverse of `named`; names are expected to be checked already."""
        if len(tensors) == 1:
            return cls(tensors["hidden"])
        plain = {name: value for name, value in tensors.items() if not name.startswith("carry.")}
        indices = [int(name.removeprefix("carry.")) for name in tensors if name.startswith("carry.")]
        carry = tuple(tensors.get(f"carry.{i}") for i in range(max(indices, default=-1) + 1))
        return cls(**plain, carry=carry)


@dataclass(frozen=True, slots=True)
class Step:
    """One step of a session as a hop receives it.

    Attributes:
        number: counts up by one with every step of the session; a repeated number asks for the same answer again.
        start: the position of the first new token. Below the cached length: the hop rolls back to it first.
        select_rows: new row i continues old row `select_rows[i]` (beam reordering, row duplication or removal);
            applied after the roll-back and before the new tokens; None means unchanged.
        tensors: the new tokens.
    """

    number: int
    start: int
    tensors: StepTensors
    select_rows: tuple[int, ...] | None = None
