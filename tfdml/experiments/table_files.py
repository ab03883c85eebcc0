"""Tables of published figures: each is a YAML file with the figures and the recipes of its rows."""

from __future__ import annotations

import dataclasses
import functools
import pathlib
from collections.abc import Mapping
from typing import NamedTuple

from tfdml.experiments.errors import InputError, unknown
from tfdml.experiments.parsing import parse_yaml

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
    """A dataset of a table, or another setting that its rows are repeated in."""

    key: str  # Its part of the recipes' names.
    label: str
    parts: list  # Added to the recipes of all rows.
    values: dict  # Values of `{data}` (the key) and of other placeholders in the names of parts.
    columns: list


class Row(NamedTuple):
    """A row of a table. What belongs to a dataset is by the dataset's key."""

    key: str  # Its part of the recipes' names.
    label: str
    base: str | None  # The recipe below all parts.
    parts: list | None  # Presets, and mappings merged into them; None for a row quoted from the literature.
    parts_of: dict  # More of them for single datasets.
    figures: dict  # By dataset: a list with a `Figure`, or None, for each column.
    doubts: dict  # By dataset: what is odd about the printed figures.


@dataclasses.dataclass(frozen=True)
class Table:
    """A table: published figures and recipes, or recipes alone."""

    name: str
    title: str
    source: str  # Where it is printed.
    recipes: str  # First part of the names of its recipes.
    parts: list  # What the recipes of all rows have in common.
    data: dict  # `TableData` by key.
    rows: dict  # `Row` by key.
    statistic: str = "mean"  # Of the evaluations: "mean" or "best".
    notes: list = ()  # Decisions where the source leaves something open, and oddities of the whole table.

    @property
    def has_figures(self):
        """Whether anything is published."""
        return any(row.figures for row in self.rows.values())

    def recipe_name(self, row, data):
        """The name of a row's recipe for a dataset, or None for a row without one."""
        if row.parts is None or (self.has_figures and data.key not in row.figures):
            return None
        return f"{self.recipes}/{data.key}/{row.key}"

    def recipes_in_braces(self):
        """The names of all recipes, with alternatives in braces as a shell expands them: a list of few strings."""

        def braced(keys):
            return f"{{{','.join(keys)}}}" if len(keys) > 1 else keys[0]

        rows_of = {}
        for row in self.rows.values():
            keys = tuple(data.key for data in self.data.values() if self.recipe_name(row, data))
            if keys:
                rows_of.setdefault(keys, []).append(row.key)
        return [f"{self.recipes}/{braced(keys)}/{braced(rows)}" for keys, rows in rows_of.items()]

    def parts_of(self, row, data):
        """The parts of a row's recipe, each merged into those before it: names of recipes and presets, mappings."""
        parts = [*self.parts, *data.parts, *row.parts, *row.parts_of.get(data.key, [])]
        parts = [part if isinstance(part, Mapping) else part.format(**data.values) for part in parts]
        return parts if row.base is None else [row.base, *parts]


def table_names():
    """The names of the tables, those of the thesis first."""
    return sorted((path.stem for path in _FOLDER.glob("*.yaml")), key=lambda name: (name[:6] != "table-", name))


@functools.cache
def load_table(name):
    """Reads the `Table` of one of `table_names()`.

    Example:
        >>> load_table("table-3.1").rows["c2"].figures["cub"][0]
        Figure(value=67.49, deviation=None)
    """
    if name not in table_names():
        raise InputError(f"{unknown('table', name, table_names())} Expected one of {', '.join(table_names())}.")
    path = _FOLDER / f"{name}.yaml"
    content = parse_yaml(path.read_text(encoding="utf-8"), path)
    columns = content.pop("columns")
    content["rows"] = {key: _row(key, **row) for key, row in content["rows"].items()}
    content["data"] = {key: _data(key, **{"columns": columns, **data}) for key, data in content["data"].items()}
    return Table(name, **{"recipes": name, **content})


@functools.cache
def table_recipes():
    """All recipes of the tables: from a name to a `Table`, one of its rows and one of its datasets."""
    places = [
        (table, row, data)
        for table in map(load_table, table_names())
        for data in table.data.values()
        for row in table.rows.values()
    ]
    return {name: place for place in places if (name := place[0].recipe_name(*place[1:]))}


def quoted_rows():
    """Names that recipes of rows from the literature would have, if there were such recipes."""
    return {
        f"{table.recipes}/{data}/{row.key}"
        for table in map(load_table, table_names())
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
    """A figure from `67.49`, `"67.35 ±0.50"` or None."""
    if cell is None:
        return None
    value, _, deviation = str(cell).partition(" ±")
    return Figure(float(value), float(deviation) if deviation else None)
