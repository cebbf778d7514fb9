"""The layers of a shard as one compiled function, for one token of any number of sessions."""

from __future__ import annotations

import ctypes
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor

from swarm.shards.ahead import TokenMemory
from swarm.shards.compiled import compiled, compiled_text
from swarm.shards.rehearsal import LayerInputs
from swarm.shards.translation import Translation

_KERNELS = ("multiply_few_rows", "attend_few_queries")  # as in `struct kernels`
_MOST_KINDS = 4  # layers that differ in more than their weights
_REACH = 16  # tokens in a row whose positions are prepared together
_FLOAT_BYTES = 4
_ROW_WORDS, _EXTRA_WORDS = 5, 2  # of `struct row` and `struct extra`
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

    @property
    def reach(self) -> int:
        """See `Program`."""
        return _REACH

    def ready(self, lengths: Sequence[int], inputs: Sequence[LayerInputs]) -> CompiledRun | None:
        """All but the hidden state `[1, rows, ...]` of tokens at positions `lengths`; None if the inputs do not fit.

        Only a run of one row can `advance`.
        """
        tensors = self._used(inputs)
        if not all(_fits(tensor, form, len(lengths)) for tensor, form in tensors):
            return None
        extras = array("Q", [word for tensor, _ in tensors for word in (tensor.data_ptr(), tensor.stride(1))])
        rows, work = _rows(lengths, inputs), self.of.working_memory(len(lengths))
        kernels, table, *others = map(_at, (self.of.kernels, self.table, rows, extras))
        words = (kernels, self.end - self.begin, table, len(lengths), *others, work.data_ptr())
        reach = min((tensor.shape[1] for tensor, _ in tensors), default=_REACH) if len(lengths) == 1 else 1
        return CompiledRun(self.of.function, array("Q", words), rows, extras, (self, work, inputs), reach)

    def _used(self, inputs: Sequence[LayerInputs]) -> list[tuple[Tensor, tuple[int, ...]]]:
        """The tensors behind `struct extra[]` of all layers, each with the form of what it holds for a token."""
        return [
            (given.tensors[index], form)
            for layer, given in zip(self.of.layers[self.begin : self.end], inputs, strict=True)
            for index, form in zip(layer.extras, layer.extra_forms, strict=True)
        ]


def _fits(tensor: Tensor, form: tuple[int, ...], rows: int) -> bool:
    """Whether this is `[1, tokens, *form]`, for so many rows at least, as the compiled functions read it."""
    is_usual = tensor.dtype == torch.float32 and tensor.is_contiguous() and tensor.dim() == 2 + len(form)
    return is_usual and tensor.shape[0] == 1 and tensor.shape[1] >= rows and tensor.shape[2:] == form


def _rows(lengths: Sequence[int], inputs: Sequence[LayerInputs]) -> Any:
    """`struct row[]` of all layers."""
    words: list[int] = []
    for layer in inputs:
        for length, (keys, values, *_) in zip(lengths, layer.caches, strict=True):
            words += (keys.data_ptr(), values.data_ptr(), keys.stride(1), values.stride(1), length)
    return array("Q", words)


@dataclass(slots=True)
class CompiledRun:
    """See `Ready`: `function` runs `job`, of which `rows` and `extras` are parts; `memory` is what it reads and writes.

    `reach` is for how many tokens in a row it has inputs, the present one included.
    """

    function: Any
    job: Any
    rows: Any
    extras: Any
    memory: Any
    reach: int

    def __call__(self, hidden: Tensor) -> Tensor:
        states = hidden.contiguous()
        found = torch.empty_like(states)
        self.function(_at(self.job), states.data_ptr(), found.data_ptr())
        return found

    def bound(self, memory: TokenMemory) -> Callable[[], object] | None:
        """See `Ready`; the memory must be there until then."""
        hidden, output = memory
        is_usual = all(t.dtype == torch.float32 and t.is_contiguous() for t in memory)
        if not is_usual or hidden.shape != output.shape:
            return None
        return partial(self.function, _at(self.job), hidden.data_ptr(), output.data_ptr())

    def advance(self) -> bool:
        """See `Ready`."""
        self.reach -= 1
        if not self.reach:
            return False
        for place in range(_ROW_WORDS - 1, len(self.rows), _ROW_WORDS):
            self.rows[place] += 1
        for place in range(0, len(self.extras), _EXTRA_WORDS):
            self.extras[place] += self.extras[place + 1] * _FLOAT_BYTES
        return True


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
