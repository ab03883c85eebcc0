"""Tables of published figures: a YAML file each, which gives the recipes of the rows and the figures alike."""

from __future__ import annotations

import dataclasses
import functools
import pathlib
from collections.abc import Mapping
from typing import NamedTuple

from tfdml.experiments.errors import InputError, nearest_key
from tfdml.experiments.parsing import parse_yaml

_FOLDER = pathlib.Path(__file__).parent / "tables"


class Figure(NamedTuple):
    """A published figure in per cent, with its standard deviation or None."""

    value: float
    deviation: float | None


class Column(NamedTuple):
    """A column of a table.

    Attributes:
        label: As printed.
        of: `"separate"` networks or their `"ensemble"`.
        metric: A key of the metrics of a protocol's summary.
    """

    label: str
    of: str
    metric: str


class TableData(NamedTuple):
    """A data set of a table, or another setting that its rows are repeated in.

    Attributes:
        key: Its part of the recipes' names.
        label: As printed.
        parts: What it adds to the recipes of all rows.
        values: What stands in the names of parts for `{data}` (the key) and other placeholders.
        columns: Its columns.
    """

    key: str
    label: str
    parts: list
    values: dict
    columns: list


class Row(NamedTuple):
    """A row of a table.

    Attributes:
        key: Its part of the recipes' names.
        label: As printed.
        base: The recipe below all parts, or None.
        parts: Presets, and mappings laid over them, or None for a row that the table quotes from the literature.
        parts_of: More of them for single data sets.
        figures: By the data set's key a list with a `Figure`, or None, for each column.
        doubts: By the data set's key what is odd about the printed figures.
    """

    key: str
    label: str
    base: str | None
    parts: list | None
    parts_of: dict
    figures: dict
    doubts: dict


@dataclasses.dataclass(frozen=True)
class Table:
    """A table.

    Attributes:
        name: As in `table_names()`.
        title: One line on what it compares.
        source: Where it is printed.
        recipes: First part of the names of its recipes.
        statistic: Which statistic of the evaluations the figures are, `"mean"` or `"best"`.
        notes: What was decided where the source leaves something open, and what is odd about the whole table.
        parts: What the recipes of all rows have in common.
        data: `TableData` by key.
        rows: `Row` by key.
    """

    name: str
    title: str
    source: str
    recipes: str
    statistic: str
    notes: list
    parts: list
    data: dict
    rows: dict

    @property
    def has_figures(self):
        """Whether anything is published."""
        return any(row.figures for row in self.rows.values())

    def recipe_name(self, row, data):
        """The name of a row's recipe for a data set, or None for a row without one."""
        if row.parts is None or (self.has_figures and data.key not in row.figures):
            return None
        return f"{self.recipes}/{data.key}/{row.key}"

    def recipes_in_braces(self):
        """The names of all recipes, with alternatives in braces as a shell expands them: a list of few strings."""
        rows_of = {}
        for row in self.rows.values():
            keys = [data.key for data in self.data.values() if self.recipe_name(row, data)]
            if keys:
                rows_of.setdefault(",".join(keys), []).append(row.key)
        return [f"{self.recipes}/{_braced(keys)}/{_braced(','.join(rows))}" for keys, rows in rows_of.items()]

    def parts_of(self, row, data):
        """What the recipe of a row is composed of, each over those before it: names of recipes and presets, mappings.

        Args:
            row: One of `rows` that has a recipe.
            data: One of `data`.
        """
        parts = [*self.parts, *data.parts, *row.parts, *row.parts_of.get(data.key, [])]
        parts = [part if isinstance(part, Mapping) else part.format(**data.values) for part in parts]
        return parts if row.base is None else [row.base, *parts]


def table_names():
    """The names of the tables, those of the thesis first."""
    return sorted((path.stem for path in _FOLDER.glob("*.yaml")), key=lambda name: (name[:6] != "table-", name))


@functools.cache
def load_table(name):
    """Reads a table.

    Args:
        name: One of `table_names()`.

    Returns:
        A `Table`.

    Raises:
        InputError: If there is no such table.

    Example:
        >>> load_table("table-3.1").rows["c2"].figures["cub"][0]
        Figure(value=67.49, deviation=None)
    """
    if name not in table_names():
        raise InputError(
            f"Unknown table {name!r}. Did you mean {nearest_key(str(name), table_names())!r}? "
            f"Expected one of {', '.join(table_names())}."
        )
    path = _FOLDER / f"{name}.yaml"
    content = parse_yaml(path.read_text(encoding="utf-8"), path)
    columns = _columns(content.pop("columns"))
    rows = {key: _row(key, **row) for key, row in content.pop("rows").items()}
    data = {key: _data(key, columns, **setting) for key, setting in content.pop("data").items()}
    defaults = {"recipes": name, "statistic": "mean", "notes": []}
    return Table(name, rows=rows, data=data, **{**defaults, **content})


@functools.cache
def table_recipes():
    """All recipes of the tables: from a name to a `Table`, one of its rows and one of its data sets."""
    recipes = {}
    for table in map(load_table, table_names()):
        for data in table.data.values():
            for row in table.rows.values():
                name = table.recipe_name(row, data)
                if name is not None:
                    recipes[name] = (table, row, data)
    return recipes


def quoted_rows():
    """Names that recipes of rows from the literature would have, if there were such recipes."""
    return {
        f"{table.recipes}/{data}/{row.key}"
        for table in map(load_table, table_names())
        for row in table.rows.values()
        if row.parts is None
        for data in row.figures
    }


def _braced(keys):
    return f"{{{keys}}}" if "," in keys else keys


def _columns(mapping):
    return [Column(label, *path.split(".")) for label, path in mapping.items()]


def _data(key, table_columns, label, parts=(), columns=None, **values):
    columns = table_columns if columns is None else _columns(columns)
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
