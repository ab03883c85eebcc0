"""Tables of published figures: YAML files with the figures and the recipes of their rows."""

from __future__ import annotations

import dataclasses
import functools
import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

from tfdml._utils.input_errors import InputError, unknown
from tfdml._utils.typed_values import parse_yaml

_FOLDER = pathlib.Path(__file__).parent / "tables"


class Figure(NamedTuple):
    """A published figure in percent, with its standard deviation or None."""

    value: float
    deviation: float | None


class Column(NamedTuple):
    """A column of a table: a metric of the `"separate"` networks or of their `"ensemble"`."""

    label: str
    of: str
    metric: str


class TableData(NamedTuple):
    """A dataset of a table, or another setting for which its rows are repeated."""

    key: str  # Part of the recipes' names.
    label: str
    parts: list[Any]  # Added to the recipes of all rows.
    values: dict[str, str]  # Values of `{data}` (the key) and other placeholders in the names of parts.
    columns: list[Column]


class Row(NamedTuple):
    """A row of a table. Mappings are by the key of a dataset."""

    key: str  # Part of the recipes' names.
    label: str
    base: str | None  # The recipe below all parts.
    parts: list[Any] | None  # Presets, and mappings merged into them; None for a row quoted from the literature.
    parts_of: dict[str, list[Any]]  # Additional parts.
    figures: dict[str, list[Figure | None]]  # For each column.
    doubts: dict[str, str]  # What is odd about the published figures.


@dataclasses.dataclass(frozen=True)
class Table:
    """A table: published figures and recipes, or recipes alone."""

    name: str
    title: str
    source: str  # Where it is published.
    recipes: str  # First part of the names of its recipes.
    parts: list[Any]  # Parts of the recipes of all rows.
    data: dict[str, TableData]
    rows: dict[str, Row]
    statistic: str = "mean"  # Of the evaluations: "mean" or "best".
    notes: list[str] = dataclasses.field(default_factory=list)  # Choices where the source is unclear, and oddities.

    @property
    def has_figures(self) -> bool:
        """Whether any figure is published."""
        return any(row.figures for row in self.rows.values())

    def recipe_name(self, row: Row, data: TableData) -> str | None:
        """Return the name of a row's recipe for a dataset, or None if there is none."""
        if row.parts is None or (self.has_figures and data.key not in row.figures):
            return None
        return f"{self.recipes}/{data.key}/{row.key}"

    def recipes_in_braces(self) -> list[str]:
        """Return the names of all recipes in a few strings, with alternatives in braces as in a shell."""

        def braced(keys):
            return f"{{{','.join(keys)}}}" if len(keys) > 1 else keys[0]

        rows_of: dict[tuple[str, ...], list[str]] = {}
        for row in self.rows.values():
            keys = tuple(data.key for data in self.data.values() if self.recipe_name(row, data))
            if keys:
                rows_of.setdefault(keys, []).append(row.key)
        return [f"{self.recipes}/{braced(keys)}/{braced(rows)}" for keys, rows in rows_of.items()]

    def parts_of(self, row: Row, data: TableData) -> list[Any]:
        """Return the parts of a row's recipe in the order of merging: names of recipes and presets, mappings."""
        parts = [*self.parts, *data.parts, *(row.parts or ()), *row.parts_of.get(data.key, [])]
        parts = [part if isinstance(part, Mapping) else part.format(**data.values) for part in parts]
        return parts if row.base is None else [row.base, *parts]


def table_names() -> list[str]:
    """Return the names of the tables, those of the thesis first."""
    return sorted((path.stem for path in _FOLDER.glob("*.yaml")), key=lambda name: (name[:6] != "table-", name))


@functools.cache
def load_table(name: str) -> Table:
    """Read one of the tables in `table_names()`.

    Example:
        >>> load_table("table-3.1").rows["c2"].figures["cub"][0]
        Figure(value=67.49, deviation=None)
    """
    if name not in table_names():
        raise InputError(f"{unknown('table', name, table_names())} Expected: one of {', '.join(table_names())}.")
    path = _FOLDER / f"{name}.yaml"
    content = parse_yaml(path.read_text(encoding="utf-8"), path)
    columns = content.pop("columns")
    content["rows"] = {key: _row(key, **row) for key, row in content["rows"].items()}
    content["data"] = {key: _data(key, **{"columns": columns, **data}) for key, data in content["data"].items()}
    return Table(name, **{"recipes": name, **content})


def all_tables() -> list[Table]:
    """Return the tables in `table_names()`."""
    return [load_table(name) for name in table_names()]


@functools.cache
def table_recipes() -> dict[str, tuple[Table, Row, TableData]]:
    """Return the table, row and dataset of all recipes of tables, by name."""
    places = [
        (table, row, data) for table in all_tables() for data in table.data.values() for row in table.rows.values()
    ]
    return {name: place for place in places if (name := place[0].recipe_name(*place[1:]))}


def quoted_rows() -> set[str]:
    """Return the names that recipes of rows quoted from the literature would have."""
    return {
        f"{table.recipes}/{data}/{row.key}"
        for table in all_tables()
        for row in table.rows.values()
        if row.parts is None
        for data in row.figures
    }


def _data(key, label, columns, parts=(), **values):
    columns = [Column(name, *path.split(".")) for name, path in columns.items()]
    return TableData(key, label, list(parts), {"data": key, **values}, columns)


def _row(key, label, base=None, parts=None, parts_of=None, figures=None, doubts=None):
    figures = {data: [_figure(cell) for cell in cells] for data, cells in (figures or {}).items()}
    return Row(key, label, base, parts, parts_of or {}, figures, doubts or {})


def _figure(cell):
    """Read `67.49`, `"67.35 ±0.50"` or None."""
    if cell is None:
        return None
    value, _, deviation = str(cell).partition(" ±")
    return Figure(float(value), float(deviation) if deviation else None)
