"""The layers of a shard as one compiled function, for one token of any number of sessions."""

from __future__ import annotations

import ctypes
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from swarm.shards.compiled import compiled_text
from swarm.shards.rehearsal import LayerInputs
from swarm.shards.translation import Translation

_KERNELS = ("multiply_few_rows.c", "attend_few_queries.c")
_MOST_KINDS = 4  # layers that differ in more than their weights
_NAME = "run_layers"


@dataclass(slots=True)
class CompiledLayers:
    """Layers in the order of the model; every run of them that follow each other is a `CompiledProgram`.

    Only one thread may run them at a time: they share their working memory.
    """

    layers: Sequence[Translation]
    function: Any
    kinds: Sequence[int]
    _tables: list[Any] = field(default_factory=list)
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
        function = compiled_text(_NAME, _source(bodies, extras), _KERNELS)
        if function is None:
            raise RuntimeError("there is no compiled function on this machine")
        size, pointer = ctypes.c_size_t, ctypes.c_void_p
        function.argtypes = [size, pointer, size, pointer, pointer, pointer, pointer, pointer]
        return cls(layers, function, kinds)

    def __post_init__(self) -> None:
        self._tables = [array("Q", [w.data_ptr() for w in layer.weights] or [0]) for layer in self.layers]

    def program(self, begin: int, end: int) -> CompiledProgram:
        """That of some of the layers, counted from the first one."""
        entries: list[int] = []
        for index in range(begin, end):
            entries += (self.kinds[index], self._tables[index].buffer_info()[0])
        return CompiledProgram(self, begin, end, array("Q", entries))

    def working_memory(self, rows: int) -> Tensor:
        """Of the size that a run of so many rows needs."""
        needed = rows * max(layer.work for layer in self.layers)
        if self._work.numel() < needed:
            self._work = torch.empty(needed)
        return self._work


@dataclass(frozen=True, slots=True)
class CompiledProgram:
    """What layers `[begin, end)` of `of` compute; see `Program`, but for any number of rows."""

    of: CompiledLayers
    begin: int
    end: int
    table: Any

    def ready(self, lengths: Sequence[int], inputs: Sequence[LayerInputs]) -> Callable[[Tensor], Tensor] | None:
        """All but the hidden state `[1, rows, ...]` of tokens at positions `lengths`; None if the inputs do not fit."""
        rows = len(lengths)
        extras = self._extras(rows, inputs)
        if extras is None:
            return None
        caches = array("Q", self._caches(lengths, inputs))
        run, count, table = self.of.function, self.end - self.begin, self.table.buffer_info()[0]
        caches_at, extras_at = caches.buffer_info()[0], extras.buffer_info()[0]
        work = self.of.working_memory(rows)

        def call(hidden: Tensor, kept: Any = (self.table, caches, extras, inputs)) -> Tensor:
            found = torch.empty_like(hidden)
            run(count, table, rows, caches_at, extras_at, hidden.data_ptr(), found.data_ptr(), work.data_ptr())
            return found

        return call

    def _caches(self, lengths: Sequence[int], inputs: Sequence[LayerInputs]) -> list[int]:
        words: list[int] = []
        for layer in inputs:
            for length, (keys, values, *_) in zip(lengths, layer.caches, strict=True):
                words += (keys.data_ptr(), values.data_ptr(), keys.stride(1), values.stride(1), length)
        return words

    def _extras(self, rows: int, inputs: Sequence[LayerInputs]) -> Any:
        words: list[int] = [0]
        for layer, given in zip(self.of.layers[self.begin : self.end], inputs, strict=True):
            for index, form in zip(layer.extras, layer.extra_forms, strict=True):
                tensor = given.tensors[index]
                if tensor.shape != (1, rows, *form) or tensor.dtype != torch.float32 or not tensor.is_contiguous():
                    return None
                words += (tensor.data_ptr(), tensor.stride(1))
        return array("Q", words[1:] or words)


def _source(bodies: Sequence[str], extras: Sequence[int]) -> str:
    parameters = (
        "size_t rows, const struct row *row, const struct extra *extra, const float *const *w, const float *hidden, "
        "float *found, float *work"
    )
    functions = [f"static void layer_{kind}({parameters}) {{\n{body}\n}}" for kind, body in enumerate(bodies)]
    cases = [
        f"case {kind}: layer_{kind}(rows, row, extra, layer[l].weights, hidden, found, work); extra += {count}; break;"
        for kind, count in enumerate(extras)
    ]
    lines = [
        '#include "step_kernels.h"',
        *functions,
        f"void {_NAME}(size_t layers, const struct layer *layer, size_t rows, const struct row *row, "
        "const struct extra *extra, const float *hidden, float *found, float *work) {",
        "for (size_t l = 0; l < layers; l++) {",
        "switch (layer[l].kind) {",
        *cases,
        "}",
        "hidden = found;",
        "row += rows;",
        "}",
        "}",
    ]
    return "\n".join(lines) + "\n"
