"""A C function in the making: its statements, and the memory that they need for each row.

What stands in it is a list of loops and calls. Every tensor belongs to one row at a time, and torch itself, with
tensors that have no memory, says where its numbers stand.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor


class Untranslatable(RuntimeError):
    """A layer does what has no translation."""


@dataclass(frozen=True, slots=True)
class Term:
    """A tensor: `memory` is the C expression for what row `r` has of it, `form` says where its numbers stand there.

    Attributes:
        form: on the meta device.
        buffer: the number of its memory, if it is the function's own.
        size: how many numbers after the first of a row the next row begins, where all rows stand in one piece.
    """

    memory: str
    form: Tensor
    buffer: int | None = None
    size: int | None = None

    def seen_as(self, form: Tensor) -> Term:
        """The same memory, looked at in another way."""
        return Term(self.memory, form, self.buffer, self.size)

    @property
    def begin(self) -> str:
        """Where its first number stands."""
        offset = self.form.storage_offset()
        return f"{self.memory} + {offset}" if offset else self.memory

    @property
    def all_rows(self) -> str:
        """Where the first row begins."""
        return self.memory.split(" ")[0]

    def lines(self) -> Iterator[int]:
        """Where each line of the last dimension begins.

        Raises:
            Untranslatable: if its numbers do not stand side by side.
        """
        if self.form.shape[-1] != 1 and self.form.stride(-1) != 1:
            raise Untranslatable("numbers that do not stand side by side")
        shape, steps = self.form.shape[:-1], self.form.stride()[:-1]
        for index in range(math.prod(shape)):
            place, left = 0, index
            for size, step in zip(reversed(shape), reversed(steps), strict=True):
                left, at = divmod(left, size)
                place += at * step
            yield place


@dataclass(slots=True)
class Buffer:
    """Memory of `size` numbers for each row, in use from one statement to another, both included."""

    size: int
    first: int
    last: int = 0
    offset: int = 0


@dataclass(slots=True)
class CFunction:
    """What a function for `rows` rows of `hidden` consists of so far."""

    statements: list[str] = field(default_factory=list)
    buffers: list[Buffer] = field(default_factory=list)

    def new(self, shape: Sequence[int]) -> Term:
        """Fresh memory."""
        form = torch.empty(tuple(shape), device="meta")
        self.buffers.append(Buffer(form.numel(), len(self.statements)))
        index = len(self.buffers) - 1
        return Term(f"v{index} + r * {form.numel()}", form, index, form.numel())

    def emit(self, statement: str, *terms: Term) -> None:
        """Add a statement that reads or writes `terms`."""
        for term in terms:
            if term.buffer is not None:
                self.buffers[term.buffer].last = len(self.statements)
        self.statements.append(statement)

    def each_row(self, lines: Sequence[str], *terms: Term) -> None:
        """Add statements that are done for each row `r`."""
        inner = "\n".join(lines)
        self.emit(f"for (size_t r = 0; r < rows; r++) {{\n{inner}\n}}", *terms)

    def loop(self, found: Term, expression: str, *terms: Term) -> None:
        """`found` becomes an expression of `terms`, in the place of `{}` or `{0}`, number by number."""
        sizes = found.form.shape
        steps = [found.form.stride(), *(term.form.expand(sizes).stride() for term in terms)]
        loops = _merged(list(zip(sizes, zip(*steps, strict=True), strict=True)))
        names = ["to", *(f"x{index}" for index in range(len(terms)))]
        places = [
            f"{name}[{' + '.join(f'i{d} * {step[k]}' for d, (_, step) in enumerate(loops)) or '0'}]"
            for k, name in enumerate(names)
        ]
        lines = [f"float *const to = {found.begin};"]
        lines += [
            f"const float *const {name} = {term.begin};" for name, term in zip(names[1:], terms, strict=True)
        ]
        for d, (size, _) in enumerate(loops):
            ahead = '_Pragma("GCC ivdep") ' if d == len(loops) - 1 else ""
            lines.append(f"{ahead}for (size_t i{d} = 0; i{d} < {size}; i{d}++)")
        self.each_row([*lines, f"{places[0]} = {expression.format(*places[1:])};"], found, *terms)

    def copy(self, source: Term, shape: Sequence[int]) -> Term:
        """The same numbers side by side, in the order of the source's dimensions."""
        copy = self.new(shape)
        self.loop(copy.seen_as(copy.form.view(source.form.shape)), "{}", source)
        return copy

    def plain(self, term: Term) -> Term:
        """The same with all its numbers side by side, and one row after the other."""
        is_whole = term.size == term.form.numel()
        if is_whole and term.form.is_contiguous() and term.form.storage_offset() == 0:
            return term
        return self.copy(term, term.form.shape)

    def finish(self, result: Term) -> tuple[str, int]:
        """The body of the function, which hands on `result`, and how many numbers of memory each row needs."""
        found = self.plain(result)
        size = found.form.numel()
        self.emit(f"memcpy(found, {found.all_rows}, rows * {size} * sizeof(float));", found)
        work = place(self.buffers)
        names = [
            f"float *const v{index} = work + rows * {buffer.offset};"
            for index, buffer in enumerate(self.buffers)
        ]
        return "\n".join(names + self.statements), work


def form_of(tensor: Tensor) -> Tensor:
    """The same without memory, beginning at 0."""
    return torch.empty_strided(tensor.shape, tensor.stride(), device="meta")


def literal(number: float) -> str:
    """A number in C.

    Raises:
        Untranslatable: if it is infinite, or none.
    """
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


def place(buffers: Sequence[Buffer]) -> int:
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
