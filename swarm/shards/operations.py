"""The operations of a recorded layer, each as statements in C."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from swarm.shards.c_function import CFunction, Term, Untranslatable, form_of, literal
from swarm.shards.few_queries import LANES, WIDEST

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


@dataclass(frozen=True, slots=True)
class Cached:
    """The keys or values of a row: a buffer `[1, heads, ..., width]`, or all that is in it with the new token."""

    name: str
    heads: int
    width: int


Meaning = Any
"""Of a value of the graph: a term, a cache, a number, a weight, a list of those, or None, as for the position."""


@dataclass(slots=True)
class Operations:
    """Adds operations to `function`; its `weights` are what it calls `w[..]`."""

    function: CFunction = field(default_factory=CFunction)
    weights: list[Tensor] = field(default_factory=list)

    def apply(self, name: str, given: Sequence[Meaning]) -> Meaning:
        """What `aten::name` makes of these.

        Raises:
            Untranslatable: if there is no translation.
        """
        if name in _BETWEEN:
            return self._between(_BETWEEN[name], *given)
        if name in _EACH:
            return self._each(_EACH[name], given[0])
        method: Callable[..., Meaning] | None = getattr(self, f"_do_{name}", None)
        if method is None:
            raise Untranslatable(f"aten::{name}")
        return method(*given)

    def term(self, meaning: Meaning) -> Term:
        """A tensor.

        Raises:
            Untranslatable: if it is something else, or no float32.
        """
        if isinstance(meaning, Term):
            return meaning
        if isinstance(meaning, Tensor):
            if meaning.dtype != torch.float32:
                raise Untranslatable(f"a constant of {meaning.dtype}")
            self.weights.append(meaning)
            return Term(f"w[{len(self.weights) - 1}]", form_of(meaning))
        raise Untranslatable(f"a tensor was expected, not {type(meaning).__name__}")

    def seen_as(self, source: Term, form: Tensor) -> Term:
        """A view of it, or a copy where torch makes one."""
        if form.untyped_storage()._cdata == source.form.untyped_storage()._cdata:
            return source.seen_as(form)
        return self.function.copy(source, form.shape)

    def _between(self, expression: str, left: Meaning, right: Meaning, factor: Meaning = 1) -> Term:
        if factor != 1:
            raise Untranslatable("a sum with a factor")
        numbers = [_number(item) for item in (left, right)]
        terms = [
            self.term(item) for item, number in zip((left, right), numbers, strict=True) if number is None
        ]
        places = ["{}" if number is None else number for number in numbers]
        found = self.function.new(np.broadcast_shapes(*(tuple(term.form.shape) for term in terms)))
        self.function.loop(found, expression.format(*places), *terms)
        return found

    def _each(self, expression: str, meaning: Meaning) -> Term:
        source = self.term(meaning)
        found = self.function.new(source.form.shape)
        self.function.loop(found, expression, source)
        return found

    # operations with a method of their own ------------------------------------------------------------------------

    def _do_to(self, source: Meaning, dtype: Meaning, *_: Meaning) -> Meaning:
        if dtype != 6:  # torch's number for float32
            raise Untranslatable("another precision")
        return self.term(source)

    def _do_type_as(self, source: Meaning, _: Meaning) -> Meaning:
        return self.term(source)  # all is float32

    def _do_contiguous(self, source: Meaning, *_: Meaning) -> Meaning:
        term = self.term(source)
        return term if term.form.is_contiguous() else self.function.copy(term, term.form.shape)

    def _do_repeat_interleave(self, source: Meaning, times: int, dim: Meaning, *_: Meaning) -> Meaning:
        term = self.term(source)
        after = dim % term.form.dim() + 1
        form = term.form.unsqueeze(after)
        repeated = form.expand(*form.shape[:after], times, *form.shape[after + 1 :])
        return self.function.copy(term.seen_as(repeated), repeated.flatten(after - 1, after).shape)

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
        terms = [self.term(part) for part in parts]
        found = self.function.new(torch.cat([term.form for term in terms], dim).shape)
        begin = 0
        for term in terms:
            size = term.form.shape[dim]
            self.function.loop(found.seen_as(found.form.narrow(dim, begin, size)), "{}", term)
            begin += size
        return found

    def _do_stack(self, parts: Meaning, dim: int) -> Meaning:
        terms = [self.term(part) for part in parts]
        found = self.function.new(torch.stack([term.form for term in terms], dim).shape)
        for index, term in enumerate(terms):
            self.function.loop(found.seen_as(found.form.select(dim, index)), "{}", term)
        return found

    def _do_mean(self, source: Meaning, dims: Meaning, keep: Meaning, dtype: Meaning = None) -> Meaning:
        term = self.term(source)
        if dims not in ([-1], [term.form.dim() - 1]) or not keep or dtype not in (None, 6):
            raise Untranslatable(f"a mean over {dims}")
        size = term.form.shape[-1]
        found = self.function.new((*term.form.shape[:-1], 1))
        lines = [
            f"({found.begin})[{index}] = sum_of({term.begin} + {place}, {size}) / {size};"
            for index, place in enumerate(term.lines())
        ]
        self.function.each_row(lines, found, term)
        return found

    def _do_layer_norm(
        self, source: Meaning, shape: Meaning, weight: Meaning, bias: Meaning, least: Meaning, *_: Meaning
    ) -> Meaning:
        term = self.term(source)
        if list(shape) != [term.form.shape[-1]]:
            raise Untranslatable(f"a norm over {shape}")
        size, found = term.form.shape[-1], self.function.new(term.form.shape)
        parts = ["0" if part is None else self._plain_weight(part) for part in (weight, bias)]
        lines = [
            f"normalize({term.begin} + {place}, {size}, {', '.join(parts)}, {literal(least)}, "
            f"{found.begin} + {index * size});"
            for index, place in enumerate(term.lines())
        ]
        self.function.each_row(lines, found, term)
        return found

    def _plain_weight(self, meaning: Meaning) -> str:
        term = self.term(meaning)
        if not isinstance(meaning, Tensor) or not term.form.is_contiguous():
            raise Untranslatable("a norm with computed weights")
        return term.begin

    def _do_linear(self, source: Meaning, weight: Meaning, bias: Meaning) -> Meaning:
        return self._product(self.term(source), weight, bias)

    def _do_addmm(
        self, bias: Meaning, source: Meaning, weight: Meaning, beta: Meaning, alpha: Meaning
    ) -> Meaning:
        if beta != 1 or alpha != 1 or not isinstance(weight, Tensor):
            raise Untranslatable("a product with factors")
        return self._product(self.term(source), weight.t(), bias)

    def _product(self, source: Term, weight: Meaning, bias: Meaning) -> Term:
        if not isinstance(weight, Tensor) or source.form.numel() != weight.shape[1]:
            raise Untranslatable("a product of two states, or of several tokens")
        states, (out, width) = self.function.plain(source), weight.shape
        if weight.stride(1) == 1:
            way, stride = "multiply_by_rows(", weight.stride(0)
        elif weight.stride(0) == 1:
            way, stride = "multiply_by_columns(kernels, ", weight.stride(1)
        else:
            raise Untranslatable("a matrix with gaps")
        found = self.function.new((*source.form.shape[:-1], out))
        matrix = self.term(weight).begin
        self.function.emit(
            f"{way}rows, {width}, {out}, {states.all_rows}, {matrix}, {stride}, {found.all_rows});",
            *(found, states),
        )
        return found if bias is None else self._between(_BETWEEN["add"], found, bias)

    def _do_index_copy_(self, cache: Meaning, dim: Meaning, at: Meaning, states: Meaning) -> Meaning:
        term = self.term(states)
        width = term.form.shape[-1]
        if not isinstance(cache, Cached) or dim != 2 or at is not None:
            raise Untranslatable("writing into something else than the cache")
        if term.form.shape != (1, cache.heads, 1, cache.width):
            raise Untranslatable(
                f"{tuple(term.form.shape)} for a token of {cache.heads} heads of {cache.width}"
            )
        head = f"row[r].{cache.name.removesuffix('s')}_head"
        lines = [
            f"memcpy(row[r].{cache.name} + {index} * {head} + row[r].length * {width}, {term.begin} + {place}, "
            f"{width} * sizeof(float));"
            for index, place in enumerate(term.lines())
        ]
        self.function.each_row(lines, term)
        return cache

    def _do_scaled_dot_product_attention(
        self, query: Meaning, keys: Meaning, values: Meaning, *options: Meaning
    ) -> Meaning:
        mask, dropout, causal, scale, grouped = options
        term = self.function.plain(self.term(query))
        _, key_heads, shared, width = term.form.shape
        is_known = isinstance(keys, Cached) and isinstance(values, Cached)
        if not is_known or (keys.name, values.name) != ("keys", "values"):
            raise Untranslatable("attention to something else than the cache")
        if (keys.heads, keys.width) != (key_heads, width) or values.heads != key_heads:
            raise Untranslatable("attention to something else than the cache")
        if mask is not None or dropout or causal or grouped:
            raise Untranslatable("attention to a part of the cache")
        if any(size % LANES or size > WIDEST for size in (width, values.width)):
            raise Untranslatable(f"heads of {width} and {values.width} numbers")
        found = self.function.new((1, key_heads, shared, values.width))
        factor = literal(width**-0.5 if scale is None else scale)
        self.function.each_row(
            [
                f"kernels->attend_few_queries({key_heads}, {shared}, row[r].length + 1, {width}, {values.width}, "
                f"{factor}, {term.begin}, row[r].keys, {width}, row[r].key_head, row[r].values, {values.width}, "
                f"row[r].value_head, {found.begin});"
            ],
            *(found, term),
        )
        return found


def _number(meaning: Meaning) -> str | None:
    """A number as C; None for a tensor."""
    if isinstance(meaning, Tensor) and meaning.dim() == 0:
        meaning = meaning.item()
    return literal(meaning) if isinstance(meaning, int | float) else None
