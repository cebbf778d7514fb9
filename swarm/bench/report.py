"""What a benchmark found, as data: shown as a table, written as JSON, drawn as a plot by others."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from swarm.core.errors import SwarmError

Cell = str | int | float | tuple[float, ...] | None
Row = Mapping[str, Cell]


@dataclass(frozen=True, slots=True)
class Column:
    """One column of the table: the key of its cells, its title with the unit, and digits after the point."""

    key: str
    title: str
    digits: int = 2


@dataclass(frozen=True, slots=True)
class Figure:
    """What the plot shows: bars of the columns `bars` for each row, named by the column `names`.

    `reference` is a column too, drawn as a mark above each row's bars; `scale` says what the bars' heights are.
    """

    names: str
    bars: tuple[str, ...]
    scale: str
    reference: str | None = None


@dataclass(frozen=True, slots=True)
class Report:
    """The result of one benchmark.

    Rows may have cells that no column shows; they stand in the JSON only. `problems` says what was not as promised: a
    run with problems has failed, whatever its numbers.
    """

    benchmark: str
    title: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    figure: Figure
    notes: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """What the JSON file holds of it: numbers as measured, and what the columns are called."""
        found = asdict(self)
        del found["figure"]
        found["columns"] = {column.key: column.title for column in self.columns}
        found["rows"] = [dict(row) for row in self.rows]
        return found

    def text(self, row: Row, column: Column) -> str:
        """A cell as it stands in the table."""
        value = row.get(column.key)
        if value is None:
            return ""
        if isinstance(value, tuple):
            return " ".join(f"{part:.{column.digits}f}" for part in value)
        return f"{value:.{column.digits}f}" if isinstance(value, float) else str(value)


def number(row: Row, key: str) -> float | None:
    """A cell as a number; None where there is none.

    Raises:
        SwarmError: the cell is text, which is a mistake in the benchmark's figure.
    """
    value = row.get(key)
    if value is None:
        return None
    if isinstance(value, str | tuple):
        raise SwarmError(f"column {key} cannot be drawn: {value!r} is no number")
    return float(value)
