"""The layers of a shard as one compiled function, for one token of any number of sessions."""

from __future__ import annotations

import ctypes
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from swarm.shards.compiled import compiled, compiled_text
from swarm.shards.rehearsal import LayerInputs
from swarm.shards.translation import Translation

_KERNELS = ("multiply_few_rows", "attend_few_queries")  # as in `struct kernels`
_MOST_KINDS = 4  # layers that differ in more than their weights
_NAME = "run_layers"


@dataclass(slots=True)
class CompiledLayers:
    """Layers in the order of the model; every run of them that follow each other is a `CompiledProgram`.

    Only one thread may run them at a time: they share their working memory.
    """

    layers: Sequence[Translation]
    kinds: Sequence[int]
    function: Any
    kernels: Any
    _weights: list[Any] = field(default_factory=list)
    _work: Tensor = field(default_factory=lambda: torch.empty(0))

    @classmethod
    def compile(cls, layers: Sequence[Translation]) -> CompiledLayers:
        """Compile them.

        Raises:
            RuntimeError: if that is not possible here, or the layers differ too much.
        """
        bodies = list(dict.fromkeys(layer.body for layer in layers))
        if len(bodies) > _MOST_KINDS:
            raise RuntimeError(f"{len(bodies)} kinds of layers")
        kinds = [bodies.index(layer.body) for layer in layers]
        extras = [len(layers[kinds.index(kind)].extras) for kind in range(len(bodies))]
        kernels = [compiled(name) for name in _KERNELS]
        function = compiled_text(_NAME, _source(bodies, extras), ("multiply_row.c",))
        if function is None or None in kernels:
            raise RuntimeError("there are no compiled functions on this machine")
        function.argtypes = [ctypes.c_void_p] * 3
        return cls(layers, kinds, function, array("Q", map(_address, kernels)))

    def __post_init__(self) -> None:
        self._weights = [array("Q", [weight.data_ptr() for weight in layer.weights]) for layer in self.layers]

    def program(self, begin: int, end: int) -> CompiledProgram:
        """That of some of the layers, counted from the first one."""
        entries: list[int] = []
        for index in range(begin, end):
            entries += (self.kinds[index], _at(self._weights[index]))
        return CompiledProgram(self, begin, end, array("Q", entries))

    def working_memory(self, rows: int) -> Tensor:
        """Of the size that a run of so many rows needs."""
        needed = rows * max(layer.work for layer in self.layers)
        if self._work.numel() < needed:
            self._work = torch.empty(needed)
        return self._work


@dataclass(frozen=True, slots=True)
class CompiledProgram:
    """What layers `[begin, end)` of `of` compute; see `Program`, but for any number of rows.

    `table` is their `struct layer[]`.
    """

    of: CompiledLayers
    begin: int
    end: int
    table: Any

    def ready(
        self, lengths: Sequence[int], inputs: Sequence[LayerInputs]
    ) -> Callable[[Tensor], Tensor] | None:
        """All but the hidden state `[1, rows, ...]` of tokens at positions `lengths`; None if the inputs do not fit."""
        extras = self._extras(len(lengths), inputs)
        if extras is None:
            return None
        rows, work = _rows(lengths, inputs), self.of.working_memory(len(lengths))
        parts = (self.of.kernels, self.table, rows, extras)
        kernels, table, *others = map(_at, parts)
        words = (kernels, self.end - self.begin, table, len(lengths), *others, work.data_ptr())
        return _Run(self.of.function, array("Q", words), (self, *parts, work, inputs))

    def _extras(self, rows: int, inputs: Sequence[LayerInputs]) -> Any:
        """`struct extra[]` of all layers; None if a tensor is of another form than was recorded."""
        words: list[int] = []
        for layer, given in zip(self.of.layers[self.begin : self.end], inputs, strict=True):
            for index, form in zip(layer.extras, layer.extra_forms, strict=True):
                tensor = given.tensors[index]
                is_usual = tensor.dtype == torch.float32 and tensor.is_contiguous()
                if tensor.shape != (1, rows, *form) or not is_usual:
                    return None
                words += (tensor.data_ptr(), tensor.stride(1))
        return array("Q", words)


def _rows(lengths: Sequence[int], inputs: Sequence[LayerInputs]) -> Any:
    """`struct row[]` of all layers."""
    words: list[int] = []
    for layer in inputs:
        for length, (keys, values, *_) in zip(lengths, layer.caches, strict=True):
            words += (keys.data_ptr(), values.data_ptr(), keys.stride(1), values.stride(1), length)
    return array("Q", words)


@dataclass(frozen=True, slots=True)
class _Run:
    """A run that lacks nothing but the hidden states; `memory` is what it reads and writes."""

    function: Any
    job: Any
    memory: Any

    def __call__(self, hidden: Tensor) -> Tensor:
        states = hidden.contiguous()
        found = torch.empty_like(states)
        self.function(_at(self.job), states.data_ptr(), found.data_ptr())
        return found


def _at(words: Any) -> int:
    address: int = words.buffer_info()[0]
    return address


def _address(function: Any) -> int:
    address = ctypes.cast(function, ctypes.c_void_p).value
    assert address is not None
    return address


def _source(bodies: Sequence[str], extras: Sequence[int]) -> str:
    """A program of all kinds of layers, with how many extras each of them has."""
    parameters = (
        "const struct kernels *kernels, size_t rows, const struct row *row, const struct extra *extra, "
        "const float *const *w, const float *hidden, float *found, float *work"
    )
    functions = [f"static void layer_{kind}({parameters}) {{\n{body}\n}}" for kind, body in enumerate(bodies)]
    arguments = "job->kernels, job->rows, row, extra, job->layer[l].weights, hidden, found, job->work"
    cases = [
        f"case {kind}: layer_{kind}({arguments}); extra += {count}; break;"
        for kind, count in enumerate(extras)
    ]
    lines = [
        '#include "step_kernels.h"',
        *functions,
        f"void {_NAME}(const struct job *job, const float *hidden, float *found) {{",
        "const struct row *row = job->row;",
        "const struct extra *extra = job->extra;",
        "for (size_t l = 0; l < job->layers; l++) {",
        "switch (job->layer[l].kind) {",
        *cases,
        "}",
        "hidden = found;",
        "row += job->rows;",
        "}",
        "}",
    ]
    return "\n".join(lines) + "\n"
