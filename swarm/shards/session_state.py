"""The state of a session in parts: read out of one, written into a fresh one on the same layers elsewhere.

A part holds tokens `[start, end)` of one cache layer, or of the kept outputs (`layer` None). Parts of one layer come in
order. All of this runs in the thread that owns the device.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from swarm.core.errors import RequestError
from swarm.shards.history import History
from swarm.shards.layer_state import (
    LayerForm,
    held_range,
    needed_tokens,
    read_tokens,
    read_whole,
    settle,
    write_tokens,
    write_whole,
)
from swarm.shards.past import Past
from swarm.shards.session import ShardSession
from swarm.shards.step import StepTensors
from swarm.shards.step_form import check_tensors

_FLOATS = {"hidden", "embeds", "per_layer"}


@dataclass(frozen=True, slots=True)
class Part:
    """Which part of a session's state: positions `[start, end)` of a cache layer, or of the kept outputs (None)."""

    layer: int | None
    start: int
    end: int


class StateReader:
    """Reads out a session, which must not change meanwhile.

    Attributes:
        length, step: its positions, and the number of its last step.
        is_masked: whether any step ever brought a mask.

    Raises:
        RequestError: if this model's caches cannot be moved.
    """

    def __init__(self, session: ShardSession, part_bytes: int) -> None:
        self._session = session
        self._forms = _forms(session)
        self._part_bytes = part_bytes
        self.length = session.length
        self.step = session.last_step
        self.is_masked = session.mask is not None

    @property
    def is_current(self) -> bool:
        """Whether the session still is what it was in the beginning."""
        return (self._session.length, self._session.last_step) == (self.length, self.step)

    def parts(self) -> Iterator[Part]:
        """The parts, in the order in which they are to be sent; each of about `part_bytes` at most."""
        session = self._session
        if not session.length:
            return
        for index, layer in session.cache.indexed.items():
            form = self._forms[index]
            if form.by_tokens:
                held = held_range(layer, session.length)
                yield from self._cut(index, held, read_tokens(layer, 0, 1))
            elif form.tensors:
                yield Part(index, 0, session.length)
        yield from self._cut(None, range(session.length), session.kept.slice(0, 1).named())

    def _cut(self, layer: int | None, held: range, one: dict[str, Tensor]) -> Iterator[Part]:
        token_bytes = sum(tensor.numel() * tensor.element_size() for tensor in one.values())
        count = max(self._part_bytes // token_bytes, 1)
        for start in range(held.start, held.stop, count):
            yield Part(layer, start, min(start + count, held.stop))

    def read(self, part: Part) -> dict[str, Tensor]:
        """A part's tensors; views, where the layers are on the CPU."""
        session = self._session
        if part.layer is None:
            return session.kept.slice(part.start, part.end).named()
        layer = session.cache.indexed[part.layer]
        if not self._forms[part.layer].by_tokens:
            return read_whole(layer)
        first = held_range(layer, session.length).start
        return read_tokens(layer, part.start - first, part.end - first)


class StateWriter:
    """Takes parts from another peer into a session that has run nothing yet; nothing shows there before `finish`.

    `room` is how many token rows it may have.

    Raises:
        RequestError: if this model's caches cannot be moved.
    """

    def __init__(self, session: ShardSession, room: int) -> None:
        self._session = session
        self._room = room
        self._forms = _forms(session)
        self._cache = session.shard.new_cache(session.span, rollback=session.rollback)
        self._kept = History()
        self._ranges: dict[int | None, range] = {}
        self._rows = 0

    def write(self, layer: int | None, start: int, tensors: dict[str, Tensor]) -> None:
        """Append a part.

        Raises:
            RequestError: if it does not continue what is there, or is not of this model's form.
        """
        rows, count = self._check_kept(tensors) if layer is None else self._check_layer(layer, tensors)
        if rows != (self._rows or rows):
            raise RequestError(f"a part has {rows} rows, an earlier one had {self._rows}")
        before = self._ranges.get(layer, range(start, start))
        if start != before.stop:
            raise RequestError(f"a part begins at position {start}, expected is {before.stop}")
        if rows * (start + count) > self._room:
            raise RequestError(
                f"a part ends at position {start + count}, there is room for {self._room} tokens"
            )
        with torch.inference_mode():
            self._append(layer, tensors)
        self._rows = rows
        self._ranges[layer] = range(before.start, start + count)

    def finish(self, length: int, step: int, *, is_masked: bool) -> None:
        """All parts have come: the session is what the other one was.

        Raises:
            RequestError: if something is missing, or the session has begun by itself.
        """
        for layer in (None, *self._forms):
            if not self._is_complete(layer, length):
                what = "the kept outputs" if layer is None else f"layer {layer}"
                raise RequestError(f"the state of {what} does not end at position {length}")
        for layer in self._cache.indexed.values():
            settle(layer, length)
        self._cache.seen = length
        past = Past(self._cache, self._kept, self._rows, length, step, is_masked=is_masked)
        self._session.restore(past)

    def _is_complete(self, layer: int | None, length: int) -> bool:
        form = None if layer is None else self._forms[layer]
        held = self._ranges.get(layer)
        if not length or (form is not None and not form.tensors):
            return held is None
        if held is None:
            return False
        if layer is None or form is None:
            return held == range(length)
        if not form.by_tokens:
            return True
        return held.stop == length and held.start <= length - needed_tokens(
            self._cache.indexed[layer], length
        )

    def _append(self, layer: int | None, tensors: dict[str, Tensor]) -> None:
        if layer is None:
            self._kept.append(StepTensors.from_named(tensors))
            return
        target, form, device = self._cache.indexed[layer], self._forms[layer], self._session.shard.device
        if form.by_tokens:
            write_tokens(target, tensors, device)
        else:
            write_whole(target, tensors, form, device)

    def _check_layer(self, index: int, tensors: dict[str, Tensor]) -> tuple[int, int]:
        """The rows and tokens of a layer's part."""
        form = self._forms.get(index)
        if form is None or not form.tensors:
            raise RequestError(f"this session keeps no state of layer {index}")
        rows = next(iter(tensors.values())).shape[0]
        form.check(tensors, rows)
        if form.by_tokens:
            return rows, tensors["keys"].shape[2]
        if index in self._ranges:
            raise RequestError(f"the state of layer {index} comes in one part")
        return rows, 0

    def _check_kept(self, tensors: dict[str, Tensor]) -> tuple[int, int]:
        """The rows and tokens of a part of the kept outputs."""
        shard = self._session.shard
        if "hidden" not in tensors:
            raise RequestError("kept outputs need `hidden`")
        step = StepTensors.from_named(tensors)
        check_tensors(step, shard.form, layers_ahead=len(shard.window) - self._session.span.end)
        for name in _FLOATS & tensors.keys():
            if tensors[name].dtype != shard.dtype:
                raise RequestError(f"{name} is {tensors[name].dtype}, this peer computes in {shard.dtype}")
        return step.rows, step.tokens


def _forms(session: ShardSession) -> dict[int, LayerForm]:
    """The forms of all layers that the session caches."""
    found = {}
    for index, layer in session.cache.indexed.items():
        form = session.shard.cache_forms.get(index)
        if form is None:
            raise RequestError(f"this model's {type(layer).__name__} cannot be handed over: compute it again")
        found[index] = form
    return found
