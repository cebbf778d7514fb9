"""A recorded layer as C: what its decode step computes for one token, for any number of rows at once.

The rows are tokens of different sessions; only attention tells them apart, each has a cache of its own. A recording is
a list of simple operations on tensors of constant shape, so each of them becomes one call or one loop nest, and what
only looks at memory in another way (views, transposes, slices) becomes nothing at all: torch itself says, with tensors
that have no memory, where their numbers stand. What is not known here is refused.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from swarm.shards.few_queries import LANES, WIDEST

_VIEWS = {
    *("alias", "chunk", "detach", "expand", "flatten", "narrow", "permute", "reshape", "select", "slice"),
    *("split", "split_with_sizes", "squeeze", "t", "transpose", "unbind", "unflatten", "unsqueeze", "view"),
}
_BETWEEN = {"add": "{} + {}", "sub": "{} - {}", "mul": "{} * {}", "div": "{} / {}"}
_EACH = {
    "abs": "fabsf({0})",
    "exp": "expf({0})",
    "neg": "-{0}",
    "relu": "{0} < 0.0f ? 0.0f : {0}",
    "rsqrt": "1.0f / sqrtf({0})",
    "sigmoid": "logistic({0})",
    "silu": "{0} * logistic({0})",
    "sqrt": "sqrtf({0})",
    "square": "{0} * {0}",
    "tanh": "tangent({0})",
}
_GELU = {
    "none": "0.5f * {0} * (1.0f + erff({0} * 0.707106781f))",
    "tanh": "{0} * logistic(1.59576912f * ({0} + 0.044715f * {0} * {0} * {0}))",
}
_POWERS = {2: "{0} * {0}", 3: "{0} * {0} * {0}"}
_HIDDEN, _AT, _KEY_BUFFER, _VALUE_BUFFER, _KEYS, _VALUES, _FIRST_EXTRA = range(
    7
)  # inputs of a recorded layer


class Untranslatable(RuntimeError):
    """A layer does what has no translation."""


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


@dataclass(frozen=True, slots=True)
class _Term:
    """A tensor: `memory` is the C expression for what row `r` has of it, `form` says where its numbers stand there."""

    memory: str
    form: Tensor  # on the meta device
    buffer: int | None = None

    def seen_as(self, form: Tensor) -> _Term:
        return _Term(self.memory, form, self.buffer)

    @property
    def begin(self) -> str:
        offset = self.form.storage_offset()
        return f"{self.memory} + {offset}" if offset else self.memory

    @property
    def is_dense(self) -> bool:
        """Whether the last dimension stands side by side."""
        return self.form.shape[-1] == 1 or self.form.stride(-1) == 1


@dataclass(frozen=True, slots=True)
class _Cache:
    """The keys or values of a row: a buffer, or all that is in it with the new token."""

    name: str
    width: int


Meaning = Any  # of a value of the graph: a term, a cache, the position, a number, a list of those, a weight, or None


@dataclass(slots=True)
class _Buffer:
    """Memory of `size` numbers for each row, in use from one statement to another."""

    size: int
    first: int
    last: int = 0
    offset: int = 0


@dataclass(slots=True)
class _Translator:
    graph: Any
    inputs: Sequence[Tensor]
    statements: list[str] = field(default_factory=list)
    buffers: list[_Buffer] = field(default_factory=list)
    weights: list[Tensor] = field(default_factory=list)
    extras: list[int] = field(default_factory=list)
    known: dict[str, Meaning] = field(default_factory=dict)

    def run(self) -> Translation:
        for index, (value, tensor) in enumerate(zip(self.graph.inputs(), self.inputs, strict=True)):
            self.known[value.debugName()] = self._input(index, tensor)
        for node in self.graph.nodes():
            self._translate(node)
        (result,) = self.graph.outputs()
        found = self._plain(self._term(self.known[result.debugName()]))
        size = found.form.numel()
        self._emit(f"memcpy(found, {self._name(found)}, rows * {size} * sizeof(float));", found)
        return self._finish()

    def _finish(self) -> Translation:
        work = _place(self.buffers)
        names = [
            f"float *const v{index} = work + rows * {buffer.offset};"
            for index, buffer in enumerate(self.buffers)
        ]
        forms = tuple(tuple(self.inputs[_FIRST_EXTRA + index].shape[2:]) for index in self.extras)
        body = "\n".join(names + self.statements)
        return Translation(body, tuple(self.weights), tuple(self.extras), forms, work)

    # what there is ------------------------------------------------------------------------------------------------

    def _input(self, index: int, tensor: Tensor) -> Meaning:
        if index == _HIDDEN:
            return _Term(f"hidden + r * {tensor.numel()}", _form(tensor))
        if index == _AT:
            return None
        if index < _FIRST_EXTRA:
            name = "keys" if index in (_KEY_BUFFER, _KEYS) else "values"
            return _Cache(name, tensor.shape[-1])
        return index - _FIRST_EXTRA  # becomes a term when it is used

    def _term(self, meaning: Meaning) -> _Term:
        if isinstance(meaning, _Term):
            return meaning
        if isinstance(meaning, Tensor):
            if meaning.dtype != torch.float32:
                raise Untranslatable(f"a constant of {meaning.dtype}")
            return _Term(f"w[{self._weight(meaning)}]", _form(meaning))
        raise Untranslatable(f"a tensor was expected, not {type(meaning).__name__}")

    def _weight(self, tensor: Tensor) -> int:
        self.weights.append(tensor)
        return len(self.weights) - 1

    def _extra(self, index: int) -> _Term:
        tensor = self.inputs[_FIRST_EXTRA + index]
        is_of_token = tensor.dim() > 2 and tensor.shape[:2] == (1, 1) and tensor.is_contiguous()
        if tensor.dtype != torch.float32 or not is_of_token:
            raise Untranslatable(f"an argument of the form {tuple(tensor.shape)}, {tensor.dtype}")
        if index not in self.extras:
            self.extras.append(index)
        place = f"extra[{self.extras.index(index)}]"
        return _Term(f"{place}.first + r * {place}.step", _form(tensor))

    def _new(self, shape: Sequence[int]) -> _Term:
        form = torch.empty(tuple(shape), device="meta")
        self.buffers.append(_Buffer(form.numel(), len(self.statements)))
        index = len(self.buffers) - 1
        return _Term(f"v{index} + r * {form.numel()}", form, index)

    def _emit(self, statement: str, *terms: _Term) -> None:
        for term in terms:
            if term.buffer is not None:
                self.buffers[term.buffer].last = len(self.statements)
        self.statements.append(statement)

    # operations ---------------------------------------------------------------------------------------------------

    def _translate(self, node: Any) -> None:
        kind = node.kind()
        outputs = [output.debugName() for output in node.outputs()]
        if kind == "prim::Constant":
            self.known[outputs[0]] = node.output().toIValue()
            return
        given = [self.known[value.debugName()] for value in node.inputs()]
        if kind == "prim::ListConstruct":
            self.known[outputs[0]] = given
        elif kind == "prim::ListUnpack":
            self.known.update(zip(outputs, given[0], strict=True))
        elif kind.startswith("aten::"):
            self.known[outputs[0]] = self._operation(kind.removeprefix("aten::"), node, given)
        else:
            raise Untranslatable(kind)

    def _operation(self, name: str, node: Any, given: list[Meaning]) -> Meaning:
        indices = {place for place, value in enumerate(node.inputs()) if value in self._extra_values()}
        given = [self._extra(item) if place in indices else item for place, item in enumerate(given)]
        if name in _VIEWS:
            return self._view(name, node, given)
        if name in _BETWEEN:
            return self._between(name, given)
        if name in _EACH:
            return self._each(_EACH[name], given[0])
        method: Callable[..., Meaning] | None = getattr(self, f"_do_{name.strip('_')}", None)
        if method is None:
            raise Untranslatable(f"aten::{name}")
        return method(*given)

    def _extra_values(self) -> list[Any]:
        return list(self.graph.inputs())[_FIRST_EXTRA:]

    def _view(self, name: str, node: Any, given: list[Meaning]) -> Meaning:
        source = self._term(given[0])
        schema = torch._C.parse_schema(node.schema())
        operator: Any = getattr(getattr(torch.ops.aten, name), schema.overload_name or "default")
        found = operator(source.form, *given[1:])
        if isinstance(found, Tensor):
            return self._seen_as(source, found)
        return [self._seen_as(source, form) for form in found]

    def _seen_as(self, source: _Term, form: Tensor) -> _Term:
        if form.untyped_storage()._cdata == source.form.untyped_storage()._cdata:
            return source.seen_as(form)
        return self._copy(source, form.shape)

    def _copy(self, source: _Term, shape: Sequence[int]) -> _Term:
        """The same numbers side by side, in the order of the source's dimensions."""
        copy = self._new(shape)
        self._loop(copy.seen_as(copy.form.view(source.form.shape)), "{}", source)
        return copy

    def _plain(self, term: _Term) -> _Term:
        """The same with all its numbers side by side, and one row after the other."""
        is_whole = term.buffer is None or self.buffers[term.buffer].size == term.form.numel()
        is_own = term.buffer is not None or term.memory.startswith("hidden")
        if is_whole and is_own and term.form.is_contiguous() and term.form.storage_offset() == 0:
            return term
        return self._copy(term, term.form.shape)

    def _name(self, plain: _Term) -> str:
        """Where all rows of it begin."""
        return plain.memory.split(" ")[0]

    def _between(self, name: str, given: list[Meaning]) -> _Term:
        if len(given) > 2 and given[2] != 1:
            raise Untranslatable(f"aten::{name} with a factor")
        numbers = [_number(item) for item in given[:2]]
        terms = [self._term(item) for item, number in zip(given, numbers, strict=False) if number is None]
        shape = np.broadcast_shapes(*(tuple(term.form.shape) for term in terms))
        places = ["{}" if number is None else number for number in numbers]
        found = self._new(shape)
        self._loop(found, _BETWEEN[name].format(*places), *terms)
        return found

    def _each(self, expression: str, meaning: Meaning) -> _Term:
        source = self._term(meaning)
        found = self._new(source.form.shape)
        self._loop(found, expression, source)
        return found

    def _loop(self, found: _Term, expression: str, *terms: _Term) -> None:
        """`found` = expression of `terms`, number by number."""
        sizes = found.form.shape
        steps = [found.form.stride(), *(term.form.expand(sizes).stride() for term in terms)]
        loops = _merged(list(zip(sizes, zip(*steps, strict=True), strict=True)))
        names = ["to", *(f"x{index}" for index in range(len(terms)))]
        places = [
            f"{name}[{' + '.join(f'i{d} * {step[k]}' for d, (_, step) in enumerate(loops)) or '0'}]"
            for k, name in enumerate(names)
        ]
        lines = ["for (size_t r = 0; r < rows; r++) {", f"float *const to = {found.begin};"]
        lines += [
            f"const float *const {name} = {term.begin};" for name, term in zip(names[1:], terms, strict=True)
        ]
        for d, (size, _) in enumerate(loops):
            ahead = '_Pragma("GCC ivdep") ' if d == len(loops) - 1 else ""
            lines.append(f"{ahead}for (size_t i{d} = 0; i{d} < {size}; i{d}++)")
        lines += [f"{places[0]} = {expression.format(*places[1:])};", "}"]
        self._emit("\n".join(lines), found, *terms)

    def _rows_of(self, term: _Term) -> Iterator[int]:
        """Where each line of the last dimension begins."""
        if not term.is_dense:
            raise Untranslatable("numbers that do not stand side by side")
        shape, steps = term.form.shape[:-1], term.form.stride()[:-1]
        for index in range(math.prod(shape)):
            place = 0
            for size, step in zip(reversed(shape), reversed(steps), strict=True):
                index, at = divmod(index, size)
                place += at * step
            yield place

    # operations with a method of their own ------------------------------------------------------------------------

    def _do_to(self, source: Meaning, dtype: Meaning, *_: Meaning) -> Meaning:
        if dtype != 6:  # torch's number for float32
            raise Untranslatable("another precision")
        return self._term(source)

    def _do_type_as(self, source: Meaning, _: Meaning) -> Meaning:
        return self._term(source)  # all is float32

    def _do_contiguous(self, source: Meaning, *_: Meaning) -> Meaning:
        term = self._term(source)
        return term if term.form.is_contiguous() else self._copy(term, term.form.shape)

    def _do_repeat_interleave(self, source: Meaning, times: int, dim: Meaning, *_: Meaning) -> Meaning:
        term = self._term(source)
        after = dim % term.form.dim() + 1
        form = term.form.unsqueeze(after)
        repeated = form.expand(*form.shape[:after], times, *form.shape[after + 1 :])
        return self._copy(term.seen_as(repeated), repeated.flatten(after - 1, after).shape)

    def _do_dropout(self, source: Meaning, _: Meaning, train: Meaning) -> Meaning:
        if train:
            raise Untranslatable("dropout")
        return source

    def _do_pow(self, source: Meaning, power: Meaning) -> Meaning:
        if power not in _POWERS:
            raise Untranslatable(f"a power of {power}")
        return self._each(_POWERS[power], source)

    def _do_gelu(self, source: Meaning, approximate: Meaning) -> Meaning:
        return self._each(_GELU[approximate], source)

    def _do_cat(self, parts: Meaning, dim: int) -> Meaning:
        terms = [self._term(part) for part in parts]
        found = self._new(torch.cat([term.form for term in terms], dim).shape)
        begin = 0
        for term in terms:
            size = term.form.shape[dim]
            self._loop(found.seen_as(found.form.narrow(dim, begin, size)), "{}", term)
            begin += size
        return found

    def _do_stack(self, parts: Meaning, dim: int) -> Meaning:
        terms = [self._term(part) for part in parts]
        found = self._new(torch.stack([term.form for term in terms], dim).shape)
        for index, term in enumerate(terms):
            self._loop(found.seen_as(found.form.select(dim, index)), "{}", term)
        return found

    def _do_mean(self, source: Meaning, dims: Meaning, keep: Meaning, dtype: Meaning = None) -> Meaning:
        term = self._term(source)
        if dims not in ([-1], [term.form.dim() - 1]) or not keep or dtype not in (None, 6):
            raise Untranslatable(f"a mean over {dims}")
        size = term.form.shape[-1]
        found = self._new((*term.form.shape[:-1], 1))
        lines = [
            f"({found.begin})[{index}] = sum_of({term.begin} + {place}, {size}) / {size};"
            for index, place in enumerate(self._rows_of(term))
        ]
        self._each_row(lines, found, term)
        return found

    def _do_layer_norm(
        self, source: Meaning, shape: Meaning, weight: Meaning, bias: Meaning, least: Meaning, *_: Meaning
    ) -> Meaning:
        term = self._term(source)
        if list(shape) != [term.form.shape[-1]]:
            raise Untranslatable(f"a norm over {shape}")
        size, found = term.form.shape[-1], self._new(term.form.shape)
        parts = ["0" if part is None else self._plain_weight(part) for part in (weight, bias)]
        lines = [
            f"normalize({term.begin} + {place}, {size}, {', '.join(parts)}, {_literal(least)}, "
            f"{found.begin} + {index * size});"
            for index, place in enumerate(self._rows_of(term))
        ]
        self._each_row(lines, found, term)
        return found

    def _plain_weight(self, meaning: Meaning) -> str:
        term = self._term(meaning)
        if not isinstance(meaning, Tensor) or not term.form.is_contiguous():
            raise Untranslatable("a norm with computed weights")
        return term.begin

    def _each_row(self, lines: Sequence[str], *terms: _Term) -> None:
        inner = "\n".join(lines)
        self._emit(f"for (size_t r = 0; r < rows; r++) {{\n{inner}\n}}", *terms)

    def _do_linear(self, source: Meaning, weight: Meaning, bias: Meaning) -> Meaning:
        return self._product(self._term(source), weight, bias)

    def _do_addmm(
        self, bias: Meaning, source: Meaning, weight: Meaning, beta: Meaning, alpha: Meaning
    ) -> Meaning:
        if beta != 1 or alpha != 1 or not isinstance(weight, Tensor):
            raise Untranslatable("a product with factors")
        return self._product(self._term(source), weight.t(), bias)

    def _product(self, source: _Term, weight: Meaning, bias: Meaning) -> _Term:
        if not isinstance(weight, Tensor) or source.form.numel() != weight.shape[1]:
            raise Untranslatable("a product of two states, or of several tokens")
        states, (out, width) = self._plain(source), weight.shape
        if weight.stride(1) == 1:
            way, stride = "multiply_by_rows(", weight.stride(0)
        elif weight.stride(0) == 1:
            way, stride = "multiply_by_columns(kernels, ", weight.stride(1)
        else:
            raise Untranslatable("a matrix with gaps")
        found = self._new((*source.form.shape[:-1], out))
        matrix = self._term(weight).begin
        self._emit(
            f"{way}rows, {width}, {out}, {self._name(states)}, {matrix}, {stride}, {self._name(found)});",
            *(found, states),
        )
        return found if bias is None else self._between("add", [found, bias])

    def _do_index_copy(self, cache: Meaning, dim: Meaning, at: Meaning, states: Meaning) -> Meaning:
        term = self._term(states)
        heads, width = term.form.shape[1], term.form.shape[-1]
        if not isinstance(cache, _Cache) or dim != 2 or at is not None or width != cache.width:
            raise Untranslatable("writing into something else than the cache")
        head = f"row[r].{cache.name.removesuffix('s')}_head"
        lines = [
            f"memcpy(row[r].{cache.name} + {index} * {head} + row[r].length * {width}, {term.begin} + {place}, "
            f"{width} * sizeof(float));"
            for index, place in enumerate(self._rows_of(term))
        ]
        assert len(lines) == heads, "one token of one row"
        self._each_row(lines, term)
        return cache

    def _do_scaled_dot_product_attention(
        self,
        query: Meaning,
        keys: Meaning,
        values: Meaning,
        mask: Meaning,
        dropout: Meaning,
        causal: Meaning,
        scale: Meaning,
        grouped: Meaning = False,
    ) -> Meaning:
        term = self._plain(self._term(query))
        _, key_heads, shared, width = term.form.shape
        is_known = isinstance(keys, _Cache) and isinstance(values, _Cache)
        if not is_known or mask is not None or dropout or causal or grouped or keys.width != width:
            raise Untranslatable("attention to something else than the cache")
        if any(size % LANES or size > WIDEST for size in (width, values.width)):
            raise Untranslatable(f"heads of {width} and {values.width} numbers")
        found = self._new((1, key_heads, shared, values.width))
        factor = _literal(width**-0.5 if scale is None else scale)
        self._each_row(
            [
                f"kernels->attend_few_queries({key_heads}, {shared}, row[r].length + 1, {width}, {values.width}, "
                f"{factor}, {term.begin}, row[r].keys, {width}, row[r].key_head, row[r].values, {values.width}, "
                f"row[r].value_head, {found.begin});"
            ],
            *(found, term),
        )
        return found


def _form(tensor: Tensor) -> Tensor:
    """The same without memory, beginning at 0."""
    return torch.empty_strided(tensor.shape, tensor.stride(), device="meta")


def _number(meaning: Meaning) -> str | None:
    """A number as C; None for a tensor."""
    if isinstance(meaning, Tensor) and meaning.dim() == 0:
        meaning = meaning.item()
    return _literal(meaning) if isinstance(meaning, int | float) else None


def _literal(number: float) -> str:
    if not math.isfinite(number):
        raise Untranslatable(f"the number {number}")
    return f"({float(number)!r}f)"


Loop = tuple[int, tuple[int, ...]]
"""How often it runs, and how far each tensor goes on each time."""


def _merged(loops: Sequence[Loop]) -> list[Loop]:
    """The same without loops that run once, and two as one where all tensors go on as if there were one."""
    found: list[Loop] = []
    for size, steps in loops:
        if size == 1:
            continue
        if found and all(outer == inner * size for outer, inner in zip(found[-1][1], steps, strict=True)):
            found[-1] = (found[-1][0] * size, steps)
        else:
            found.append((size, steps))
    return found


def _place(buffers: Sequence[_Buffer]) -> int:
    """Give every buffer an offset, that of one which is in use no more if there is one; the size of all together."""
    end, free = 0, dict[int, list[int]]()
    ending = sorted(buffers, key=lambda buffer: buffer.last)
    for buffer in buffers:
        while ending and ending[0].last < buffer.first:
            gone = ending.pop(0)
            free.setdefault(gone.size, []).append(gone.offset)
        if free.get(buffer.size):
            buffer.offset = free[buffer.size].pop()
        else:
            buffer.offset, end = end, end + buffer.size
    return end
