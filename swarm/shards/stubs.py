"""What stands in a truncated model for the modules that live elsewhere."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class Stub(nn.Module):
    """A module without parameters; plain attributes of the (meta) original stay reachable.

    Stacks look at `layer.attention_type`, `layer.is_sliding` and the like before they call a layer.
    """

    def __init__(self, original: nn.Module) -> None:
        super().__init__()
        self.__dict__["original"] = original  # past nn.Module, so that its parameters are not registered
        for name, value in vars(original).items():
            if isinstance(value, (int, str)) and name not in self.__dict__:  # bool is an int
                self.__dict__[name] = value

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["original"], name)


class SkippedModule(Stub):
    """Returns its first argument unchanged."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return args[0] if args else next(iter(kwargs.values()))


class ZeroEmbedding(Stub):
    """Stands for the token embedding: zeros of the right shape, in the dtype and device of the shard."""

    def __init__(self, original: nn.Embedding) -> None:
        super().__init__(original)
        self.dim = original.embedding_dim
        self.__dict__["like"] = None

    def forward(self, input_ids: Tensor) -> Tensor:
        like: Tensor | None = self.__dict__["like"]
        dtype = None if like is None else like.dtype
        return torch.zeros(*input_ids.shape, self.dim, dtype=dtype, device=input_ids.device)
