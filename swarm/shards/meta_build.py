"""Models are built on the meta device, where their weights take no memory; and without what torch does there in Python.

What a constructor computes (rotary frequencies, above all) is the work of torch's reference implementations if it is
computed without memory. They are Python, and the first of them imports torch's compiler and sympy: a second. So small
ranges are counted on the CPU, and what is computed from them alone is, too.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map_only

META = torch.device("meta")


class NativeMeta(TorchFunctionMode):
    """While it is on, no first values are drawn for tensors without memory, and ranges are on the CPU.

    Where something of the CPU meets a tensor without memory, it loses its own.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is torch.arange and _is_meta(kwargs.get("device")):
            return func(*args, **{**kwargs, "device": "cpu"})
        given = _tensors(args, kwargs)
        if any(tensor.is_meta for tensor in given):
            if getattr(func, "__module__", None) == nn.init.__name__:
                return given[0]
            if not all(tensor.is_meta for tensor in given):
                args, kwargs = tree_map_only(Tensor, lambda tensor: tensor.to(META), (args, kwargs))
        return func(*args, **kwargs)


@contextmanager
def on_meta() -> Iterator[None]:
    """What is built within has no memory for its weights; `strip` takes that of the rest."""
    with NativeMeta(), META:
        yield


def strip(model: nn.Module) -> None:
    """Leave only names and shapes of what was computed with memory."""
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None and not parameter.is_meta:
                bare = nn.Parameter(parameter.to(META), requires_grad=parameter.requires_grad)
                bare.__dict__.update(parameter.__dict__)
                module._parameters[name] = bare
        for name, buffer in module._buffers.items():
            if buffer is not None and not buffer.is_meta:
                module._buffers[name] = buffer.to(META)


def _is_meta(device: Any) -> bool:
    return device is not None and torch.device(device) == META


def _tensors(args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Tensor]:
    """The tensors among the arguments, and in lists of them."""
    found: list[Tensor] = []
    for value in (*args, *kwargs.values()):
        if isinstance(value, Tensor):
            found.append(value)
        elif isinstance(value, (list, tuple)):
            found += [item for item in value if isinstance(item, Tensor)]
    return found
