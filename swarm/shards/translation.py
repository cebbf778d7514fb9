"""A recorded layer as C: what its decode step computes for one token, for any number of rows at once.

The rows are tokens of different sessions; only attention tells them apart, each has a cache of its own. A recording is
a list of simple operations on tensors of constant shape, so each of them becomes one call or one loop nest, and what
only looks at memory in another way (views, transposes, slices) becomes nothing at all: torch itself says, with tensors
that have no memory, where their numbers stand. What is not known here is refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from swarm.shards.c_function import Term, Untranslatable, form_of
from swarm.shards.operations import Cached, Meaning, Operations

_VIEWS = {
    *("alias", "chunk", "detach", "expand", "flatten", "narrow", "permute", "reshape", "select", "slice"),
    *("split", "split_with_sizes", "squeeze", "t", "transpose", "unbind", "unflatten", "unsqueeze", "view"),
}
# inputs of a recorded layer
_HIDDEN, _AT, _KEY_BUFFER, _VALUE_BUFFER, _KEYS, _VALUES, _FIRST_EXTRA = range(7)


@dataclass(frozen=True, slots=True)
class Translation:
    """A layer as the body of a C function.

    Attributes:
        body: its statements; layers that differ in nothing but their weights have the same.
        weights: what it calls `w[..]`.
        extras: which tensors of the layer's call, besides the hidden state, it calls `extra[..]`.
        extra_forms: the sizes of their tokens, from the third dimension on.
        work: numbers for each row that it needs memory for.
    """

    body: str
    weights: tuple[Tensor, ...]
    extras: tuple[int, ...]
    extra_forms: tuple[tuple[int, ...], ...]
    work: int


def translated(graph: Any, inputs: Sequence[Tensor]) -> Translation:
    """The translation of a layer's recording; `inputs` are some that fit it.

    Raises:
        Untranslatable: naming what stands in the way.
    """
    return _Translator(graph, inputs).run()


@dataclass(slots=True)
class _Translator:
    """Goes through a graph, node by node; `known` is what its values mean so far."""

    graph: Any
    inputs: Sequence[Tensor]
    operations: Operations = field(default_factory=Operations)
    extras: list[int] = field(default_factory=list)
    known: dict[str, Meaning] = field(default_factory=dict)

    def run(self) -> Translation:
        """Translate all of it."""
        for index, (value, tensor) in enumerate(zip(self.graph.inputs(), self.inputs, strict=True)):
            self.known[value.debugName()] = self._input(index, tensor)
        for node in self.graph.nodes():
            self._translate(node)
        (result,) = self.graph.outputs()
        operations = self.operations
        body, work = operations.function.finish(operations.term(self.known[result.debugName()]))
        forms = tuple(tuple(self.inputs[_FIRST_EXTRA + index].shape[2:]) for index in self.extras)
        return Translation(body, tuple(operations.weights), tuple(self.extras), forms, work)

    def _input(self, index: int, tensor: Tensor) -> Meaning:
        if index < _FIRST_EXTRA and index != _AT and tensor.dtype != torch.float32:
            raise Untranslatable(f"states of {tensor.dtype}")
        if index == _HIDDEN:
            return Term(f"hidden + r * {tensor.numel()}", form_of(tensor), size=tensor.numel())
        if index == _AT:
            return None
        if index < _FIRST_EXTRA:
            name = "keys" if index in (_KEY_BUFFER, _KEYS) else "values"
            return Cached(name, tensor.shape[1], tensor.shape[-1])
        return _Extra(index - _FIRST_EXTRA)

    def _translate(self, node: Any) -> None:
        kind = node.kind()
        outputs = [output.debugName() for output in node.outputs()]
        if kind == "prim::Constant":
            self.known[outputs[0]] = node.output().toIValue()
            return
        given = [self._used(self.known[value.debugName()]) for value in node.inputs()]
        if kind == "prim::ListConstruct":
            self.known[outputs[0]] = given
        elif kind == "prim::ListUnpack":
            self.known.update(zip(outputs, given[0], strict=True))
        elif kind.startswith("aten::"):
            name = kind.removeprefix("aten::")
            found = self._view(name, node, given) if name in _VIEWS else self.operations.apply(name, given)
            self.known[outputs[0]] = found
        else:
            raise Untranslatable(kind)

    def _used(self, meaning: Meaning) -> Meaning:
        """An argument of the layer counts once it is used: most models bring some that their layers never look at."""
        if not isinstance(meaning, _Extra):
            return meaning
        tensor = self.inputs[_FIRST_EXTRA + meaning.index]
        is_of_token = tensor.dim() > 2 and tensor.shape[:2] == (1, 1) and tensor.is_contiguous()
        if tensor.dtype != torch.float32 or not is_of_token:
            raise Untranslatable(f"an argument of the form {tuple(tensor.shape)}, {tensor.dtype}")
        if meaning.index not in self.extras:
            self.extras.append(meaning.index)
        place = f"extra[{self.extras.index(meaning.index)}]"
        return Term(f"{place}.first + r * {place}.step", form_of(tensor))

    def _view(self, name: str, node: Any, given: Sequence[Meaning]) -> Meaning:
        source = self.operations.term(given[0])
        schema: Any = torch._C.parse_schema(node.schema())
        operator: Any = getattr(getattr(torch.ops.aten, name), schema.overload_name or "default")
        rest = list(zip(schema.arguments, given, strict=True))[1:]
        named = {argument.name: value for argument, value in rest if argument.kwarg_only}
        found = operator(
            source.form, *[value for argument, value in rest if not argument.kwarg_only], **named
        )
        if isinstance(found, Tensor):
            return self.operations.seen_as(source, found)
        return [self.operations.seen_as(source, form) for form in found]


@dataclass(frozen=True, slots=True)
class _Extra:
    """A tensor of the layer's call besides the hidden state, by its number."""

    index: int
