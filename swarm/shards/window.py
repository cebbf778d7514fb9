"""The part of a stack's layer list that a call really runs.

A stack's `forward` loops over its layers. `LayerWindow` takes the place of the `ModuleList` and shows the loop, for a
call that runs layers `[a, b)`: pass-throughs before `a`, then layer `a` with its hidden state swapped for the received
one, the following layers as they are, and after layer `b - 1` an exception that carries the result out of the loop.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from torch import Tensor, nn

from swarm.core.span import Span
from swarm.shards.stack import LayerCall

LayerArguments = tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]
"""A layer, and what it is called with."""


class SpanDone(Exception):
    """The last layer of the span has run; carries its output."""

    def __init__(self, output: Any) -> None:
        super().__init__()
        self.output = output


class Slot:
    """What a call puts in, shared by the elements of one window."""

    __slots__ = ("carry", "hidden")

    def __init__(self) -> None:
        self.hidden: Tensor | None = None
        self.carry: tuple[Tensor | None, ...] = ()


class _Proxy:
    """Stands for a layer in the loop; attributes and `isinstance` see the layer."""

    def __init__(self, layer: nn.Module, slot: Slot) -> None:
        self._layer = layer
        self._slot = slot
        self._call: Callable[..., Any] = layer.__call__

    def __getattr__(self, name: str) -> Any:
        return getattr(self._layer, name)

    @property  # type: ignore[misc]
    def __class__(self) -> type:
        return type(self._layer)


class _Before(_Proxy):
    """A layer before the span: passes on what it gets, and the carried values once the span is about to begin."""

    def __init__(self, layer: nn.Module, slot: Slot, call: LayerCall) -> None:
        super().__init__(layer, slot)
        self._tuple = call.returns_tuple
        self._items = len(call.carried)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        hidden = args[0] if args else kwargs["hidden_states"]
        if not self._tuple:
            return hidden
        carry = self._slot.carry or (None,) * self._items
        return (hidden, *carry)


class _Inside(_Proxy):
    """A layer of the span that is its first, its last, or both."""

    def __init__(self, layer: nn.Module, slot: Slot, *, first: bool, last: bool) -> None:
        super().__init__(layer, slot)
        self._first = first
        self._last = last

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if self._first:
            if args:
                args = (self._slot.hidden, *args[1:])
            else:
                kwargs["hidden_states"] = self._slot.hidden
        output = self._call(*args, **kwargs)
        if self._last:
            raise SpanDone(output)
        return output


class _Noter(_Proxy):
    """Notes what a layer is called with, and passes the hidden state on; after the last one the loop ends."""

    def __init__(self, layer: nn.Module, slot: Slot, calls: list[LayerArguments], *, last: bool) -> None:
        super().__init__(layer, slot)
        self._calls = calls
        self._last = last

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self._calls.append((self._call, args, kwargs))
        hidden = args[0] if args else kwargs["hidden_states"]
        if self._last:
            raise SpanDone(hidden)
        return hidden


class _Probe(_Proxy):
    """Stops the loop before the first layer, with the hidden state that the stack hands to it."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        raise SpanDone(args[0] if args else kwargs["hidden_states"])


class LayerWindow(nn.ModuleList):
    """A `ModuleList` whose iteration shows `view` instead of its modules."""

    def __init__(self, layers: nn.ModuleList) -> None:
        super().__init__(layers)
        self.__dict__["view"] = None

    def views(self, span: Span, slot: Slot, call: LayerCall) -> list[Any]:
        """What the loop shall see for layers `[span.start, span.end)`."""
        layers = list(self._modules.values())
        view: list[Any] = [_Before(layer, slot, call) for layer in layers[: span.start] if layer is not None]
        for index in range(span.start, span.end):
            layer = layers[index]
            assert layer is not None
            first, last = index == span.start, index == span.end - 1
            view.append(_Inside(layer, slot, first=first, last=last) if first or last else layer)
        return view + layers[span.end :]

    def noting(self, span: Span, slot: Slot, call: LayerCall, calls: list[LayerArguments]) -> list[Any]:
        """A view that runs no layer, but notes in `calls` what those of the span are called with."""
        view = self.views(span, slot, call)
        layers = list(self._modules.values())
        for index in range(span.start, span.end):
            layer = layers[index]
            assert layer is not None
            view[index] = _Noter(layer, slot, calls, last=index == span.end - 1)
        return view

    def probe(self, slot: Slot) -> list[Any]:
        """A view that only finds out what enters the first layer."""
        layers: list[Any] = list(self._modules.values())
        return [_Probe(layers[0], slot), *layers[1:]]

    def show(self, view: list[Any] | None) -> None:
        """Let the following iterations see `view`; None shows the modules themselves."""
        self.__dict__["view"] = view

    def __iter__(self) -> Iterator[Any]:
        view = self.__dict__["view"]
        return super().__iter__() if view is None else iter(view)

    def __getitem__(self, index: int | slice) -> Any:
        view = self.__dict__.get("view")
        return super().__getitem__(index) if view is None else view[index]
