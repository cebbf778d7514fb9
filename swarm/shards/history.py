"""Everything that passed one layer boundary in a session, kept in CPU memory so that it can be passed on again."""

from __future__ import annotations

import torch
from torch import Tensor

from swarm.core.errors import RequestError
from swarm.core.pages import room_for
from swarm.shards.step import StepTensors


class History:
    """Grows in place along the token axis over `StepTensors`.

    A step that brings no mask or no positions, where others did, counts as all True and as consecutive.
    """

    def __init__(self) -> None:
        self._room: dict[str, Tensor] = {}
        self._length = 0
        self._rows = 0

    @property
    def length(self) -> int:
        """Tokens kept per row."""
        return self._length

    @property
    def rows(self) -> int:
        """Rows kept; 0 before the first step."""
        return self._rows

    @property
    def nbytes(self) -> int:
        """Memory held, spare room included."""
        return sum(tensor.numel() * tensor.element_size() for tensor in self._room.values())

    def append(self, tensors: StepTensors) -> None:
        """Keep a copy of one step's tensors after what is there.

        Raises:
            RequestError: if they do not continue what is there (other rows, other tensors, other sizes).
        """
        named = tensors.named()
        start, end = self._length, self._length + tensors.tokens
        if start == 0:
            self._room.clear()
            self._rows = tensors.rows
        if tensors.rows != self._rows:
            raise RequestError(f"the session has {self._rows} rows, the step brings {tensors.rows}")
        if named.keys() != self._room.keys():
            self._add_missing(named, start, end)
        for name, value in named.items():
            room = self._room.get(name)
            if room is None or room.shape[1] < end:
                room = self._room[name] = _enlarged(room, value, start, end)
            if name.startswith("carry.") and not value.is_floating_point():
                room, value = self._widened(name, room, value)
            if room.shape[2:] != value.shape[2:]:
                raise RequestError(
                    f"{name} changed its size from {list(room.shape[2:])} to {list(value.shape[2:])}"
                )
            room[:, start:end] = value
        self._length = end

    def truncate(self, length: int) -> None:
        """Forget everything from position `length` on."""
        assert 0 <= length <= self._length
        self._length = length

    def select_rows(self, rows: tuple[int, ...]) -> None:
        """Row `i` becomes what row `rows[i]` was."""
        index = torch.tensor(rows, dtype=torch.long)
        self._room = {name: room.index_select(0, index) for name, room in self._room.items()}
        self._rows = len(rows)

    def slice(self, start: int, end: int) -> StepTensors:
        """The tensors of positions `[start, end)`, as views; a mask that is all True is left out."""
        assert 0 <= start < end <= self._length
        named = {name: room[:, start:end] for name, room in self._room.items()}
        if "mask" in named and bool(named["mask"].all()):
            del named["mask"]
        return StepTensors.from_named(named)

    def mask(self) -> Tensor:
        """The mask `[B, length]` of all that is kept, bool."""
        room = self._room.get("mask")
        return _default("mask", self._rows, 0, self._length) if room is None else room[:, : self._length]

    def _widened(self, name: str, room: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Carried indices (of chosen past tokens) grow with the past: repeat the last one until both are as wide."""
        width = max(room.shape[-1], value.shape[-1])
        room = self._room[name] = _repeat_last(room, width)
        return room, _repeat_last(value, width)

    def _add_missing(self, named: dict[str, Tensor], start: int, end: int) -> None:
        """Write out defaults on whichever side lacks mask or positions, and refuse other differences."""
        if start:
            for name in ("mask", "positions"):
                if name in named and name not in self._room:
                    self._room[name] = _default(name, self._rows, 0, start)
        for name in self._room.keys() - named.keys():
            if name not in ("mask", "positions"):
                raise RequestError(
                    f"the step lacks the tensor {name!r} which earlier steps of the session had"
                )
            named[name] = _default(name, self._rows, start, end)
        if start and (extra := named.keys() - self._room.keys()):
            raise RequestError(f"earlier steps of the session had no tensor {sorted(extra)[0]!r}")


def _default(name: str, rows: int, start: int, end: int) -> Tensor:
    if name == "mask":
        return torch.ones(rows, end - start, dtype=torch.bool)
    return torch.arange(start, end).expand(rows, -1)


def _enlarged(room: Tensor | None, value: Tensor, start: int, end: int) -> Tensor:
    capacity = room_for(value.shape[0], end, start)
    sizes = value.shape[2:] if room is None else room.shape[2:]
    enlarged = torch.empty(value.shape[0], capacity, *sizes, dtype=value.dtype)
    if room is not None and start:
        enlarged[:, :start] = room[:, :start]
    return enlarged


def _repeat_last(indices: Tensor, width: int) -> Tensor:
    lacking = width - indices.shape[-1]
    if lacking == 0:
        return indices
    return torch.cat([indices, indices[..., -1:].expand(*indices.shape[:-1], lacking)], dim=-1)
