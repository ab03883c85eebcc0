"""Finished runs and protocols as tables: next to published figures, or grouped by recipe.

python -m tfdml.experiments.tables [FOLDER ...] [--table TABLE] [--out DIR]
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import os
import pathlib
import statistics
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from tfdml._utils.command_line import CommandParser
from tfdml._utils.input_errors import InputError
from tfdml._utils.markdown import markdown_table
from tfdml._utils.plain_files import csv_text, write_text
from tfdml._utils.typed_values import value_of
from tfdml._utils.types import PathLike
from tfdml.experiments import plugins
from tfdml.experiments.options import add_import_options
from tfdml.experiments.recipe import Recipe
from tfdml.experiments.recipe_files import (
    decisive_values,
    default_mapping,
    load_recipe,
    recipe_hash,
    table_recipe_mapping,
)
from tfdml.experiments.run_folder import RunFolder, read_json
from tfdml.experiments.table_files import Column, Table, load_table, table_names, table_recipes

_EXAMPLES = """
examples:
  %(prog)s                                  # everything in the folder runs
  %(prog)s runs /scratch/more --out tables  # two folders; also writes Markdown and CSV
  %(prog)s runs --table table-3.1           # one published table

Runs that differ only in the seed, under the same major version of Keras, are one row: mean ± standard deviation."""

_NO_VALUE = "–"
_METRICS = {"MAP@R": "map_at_r", "P@1": "precision_at_1"}


class Result(NamedTuple):
    """A finished protocol. `summary` is its summary.json, `changes` how it differs from the row in which it is."""

    folder: pathlib.Path
    recipe: Recipe
    summary: dict[str, Any]
    changes: str = ""

    @property
    def hash(self) -> str:
        """The hash of its recipe."""
        return self.summary["recipe_hash"]

    @property
    def stops_on_test(self) -> bool:
        """Whether its test classes selected the best weights."""
        return self.summary["protocol"] == "conventional"


class Run(NamedTuple):
    """A finished single run, with its metrics on the test classes after and before training.

    `keras` is the major version of Keras that trained it.
    """

    folder: pathlib.Path
    recipe: Recipe
    test: dict[str, float]
    untrained: dict[str, float]
    keras: str = "unknown"


class Findings(NamedTuple):
    """What folders contain. The last two have pairs of a folder and a text: its progress, and why it is unusable."""

    results: list[Result]
    runs: list[Run]
    unfinished: list[tuple[pathlib.Path, str]]
    unreadable: list[tuple[pathlib.Path, str]]


def find_results(folders: Iterable[PathLike]) -> Findings:
    """Find the runs and protocols in folders and all folders below. Raise an InputError if there are none."""
    found = Findings([], [], [], [])
    for folder in sorted({path.resolve(): path for top in folders for path in _folders_with_recipes(top)}.values()):
        try:
            recipe = load_recipe((folder / "recipe.yaml").resolve())
            is_run = recipe.protocol.name == "single" or (folder / "environment.json").is_file()
            one = _read_run(folder, recipe) if is_run else _read_protocol(folder, recipe)
        except InputError as error:
            found.unreadable.append((folder, str(error)))
            continue
        if isinstance(one, str):
            found.unfinished.append((folder, one))
        elif isinstance(one, Run):
            found.runs.append(one)
        else:
            found.results.append(one)
    if not any(found):
        raise InputError(
            f"There is no run or protocol. Received: {', '.join(map(str, folders))}. Expected: folders that train.py "
            "has written, with recipe.yaml in them."
        )
    return found


def _folders_with_recipes(top):
    top = pathlib.Path(top).expanduser()
    if not top.is_dir():
        raise InputError(f"There is no folder {top}.")
    for folder, subfolders, files in os.walk(top):
        subfolders.sort()
        if "recipe.yaml" in files:
            subfolders.clear()
            yield pathlib.Path(folder)


@contextlib.contextmanager
def _reading(path: pathlib.Path, remedy: str = "") -> Iterator[None]:
    """Re-raise errors of a file with unexpected content as InputError."""
    try:
        yield
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path} is damaged ({type(error).__name__}: {error}).{remedy}") from error


def _read_run(folder: pathlib.Path, recipe: Recipe) -> Run | str:
    """A `Run`, or text that names an unfinished one."""
    run = RunFolder(folder)
    if not run.is_finished:
        return f"{recipe.name}, seed {recipe.seed}"
    with _reading(run.test_metrics):
        content = read_json(run.test_metrics)
        test, untrained = (
            {name: value for name, value in content[kind].items() if isinstance(value, float)}
            for kind in ("test", "untrained")
        )
        test["map_at_r"], untrained["map_at_r"]
    version = value_of(run.read_environment(), "packages.keras")
    return Run(folder, recipe, test, untrained, version.split(".")[0] if isinstance(version, str) else "unknown")


def _read_protocol(folder: pathlib.Path, recipe: Recipe) -> Result | str:
    """A `Result`, or text that says how many runs are finished."""
    from tfdml.experiments.protocols import ProtocolFolder, plan

    protocol = ProtocolFolder(folder)
    if not protocol.summary.exists():
        finished = [RunFolder(protocol.runs / run.name).is_finished for run in plan(recipe)]
        return f"{recipe.name}: {sum(finished)} of {len(finished)} runs"
    with _reading(protocol.summary, f" Remove it; train.py --resume {folder} writes it again."):
        summary = read_json(protocol.summary)
        for values in (values for metrics in summary["metrics"].values() for values in metrics.values()):
            if not isinstance(values["mean"], float) or not {"deviation", "best"} <= set(values):
                raise KeyError("mean")
        known, _, _ = summary["recipe_hash"], summary["protocol"], int(summary["evaluations"])
    if known != recipe_hash(recipe):
        raise InputError(
            f"{folder / 'recipe.yaml'} is not the recipe of {protocol.summary.name}. Received: recipe "
            f"{recipe_hash(recipe)}, summary {known}. Expected: the same."
        )
    return Result(folder, recipe, summary)


def place_results(
    results: Iterable[Result], tables: Collection[str]
) -> tuple[dict[str, list[Result]], list[Result]]:
    """Find the rows of results: those with the same recipe or else, marked as changed, the one of the same name.

    Args:
        results: iterable of `Result`.
        tables: collection of str. Names of tables.

    Returns:
        The results by the names of the rows' recipes, and the results without a row.
    """
    names = [name for name, (table, _, _) in table_recipes().items() if table.name in tables]
    placed: dict[str, list[Result]] = {}
    others = []
    for result in results:
        rows = [name for name in _rows_by_hash().get(result.hash, ()) if name in names]
        if not rows and result.recipe.name in names:
            rows = [result.recipe.name]
            result = result._replace(changes=_changes(result.recipe, result.recipe.name))
        for name in rows:
            placed.setdefault(name, []).append(result)
        if not rows:
            others.append(result)
    return placed, others


@functools.cache
def _rows_by_hash():
    rows: dict[str, list[str]] = {}
    for name in table_recipes():
        rows.setdefault(recipe_hash(table_recipe_mapping(name)), []).append(name)
    return rows


def _changes(recipe, name):
    """The differences of a recipe from that of a row, as in `"training.patience 60 → 30"`."""
    here, there = decisive_values(recipe), decisive_values(table_recipe_mapping(name))
    return ", ".join(f"{key} {_value(there, key)} → {_value(here, key)}" for key in _differing([here, there]))


def _differing(mappings: Sequence[Mapping[str, Any]]) -> list[str]:
    """The keys whose values are not the same in all mappings."""
    keys = {key for mapping in mappings for key in mapping}
    return sorted(key for key in keys if any(mapping.get(key) != mappings[0].get(key) for mapping in mappings))


def _value(values, key):
    """A recipe's value, from its `decisive_values` or the defaults."""
    return values[key] if key in values else value_of(default_mapping(), key)


_LEGENDS = {
    (True, "mean"): "Percent: as published, and here: mean ± standard deviation over n evaluations "
    "(difference from the published figure).",
    (True, "best"): "Percent: as published, the best of the repetitions, and here: mean ± standard deviation over n "
    "evaluations, the best of them (its difference from the published figure).",
    (False, "mean"): "Percent: mean ± standard deviation over n evaluations.",
}


def table_text(table: Table, placed: Mapping[str, list[Result]]) -> str:
    """Return a table in Markdown: for each dataset with results all rows, with published figures and results."""
    parts = [f"# {table.title}", f"{table.source}."]
    if any(result.stops_on_test for name in _names_of(table) for result in placed.get(name, ())):
        parts.append("**Early stopping on the test classes.**")
    parts.append(_LEGENDS[table.has_figures, table.statistic])
    for data in table.data.values():
        if any(placed.get(table.recipe_name(row, data) or "") for row in table.rows.values()):
            parts += [f"## {data.label}", *_data_text(table, data, placed)]
    parts += ["\n".join(f"- {note}" for note in table.notes)] * bool(table.notes)
    return "\n\n".join(part.strip() for part in parts) + "\n"


def _data_text(table, data, placed):
    columns, rows, remarks = ["method"], [], []
    for column in data.columns:
        columns += [f"{column.label}, published"] * table.has_figures + [column.label]
    for row, result, cells in _entries(table, data, placed):
        label, known = row.label, [_NO_VALUE, _NO_VALUE]
        if doubt := row.doubts.get(data.key, row.doubts.get("all")):
            label += " †"
            remarks.append(f"† {row.label}: {doubt}")
        if result is not None:
            known = [result.summary["evaluations"], result.hash]
            # Distinguishes several results of one row, and changed ones.
            label += f" ({result.folder})" * (len(placed[table.recipe_name(row, data)]) > 1)
            if result.changes:
                label += " *changed*"
                remarks.append(f"*changed* {result.folder}: {result.changes}")
        texts = []
        for _, figure, values, difference in cells:
            published = _NO_VALUE if figure is None else _with_deviation(*figure)
            texts += [published] * table.has_figures + [_cell(values, difference, table.statistic)]
        rows.append([label, *texts, *known])
    return [markdown_table([*columns, "n", "recipe"], rows), *dict.fromkeys(remarks)]


def _entries(table, data, placed):
    """Yield rows, their results or None, and for each column the figure, the result's values, and their difference."""
    for row in table.rows.values():
        if table.has_figures and data.key not in row.figures:
            continue
        figures = row.figures.get(data.key, [None] * len(data.columns))
        for result in placed.get(table.recipe_name(row, data)) or [None]:
            cells = []
            for column, figure in zip(data.columns, figures):
                values, difference = _percent(result, column), None
                # The row of a changed recipe is another one.
                if values is not None and figure is not None and not result.changes:
                    difference = values[table.statistic] - figure.value
                cells.append((column, figure, values, difference))
            yield row, result, cells


def _cell(values, difference, statistic):
    """A result's cell, as in `68.35 ± 0.41 (+0.12)`."""
    if values is None:
        return _NO_VALUE
    text = _with_deviation(values["mean"], values["deviation"])
    if statistic == "best" and values["deviation"] is not None:
        text += f", best {values['best']:.2f}"
    return text if difference is None else f"{text} ({difference:+.2f})"


def _percent(result, column):
    """Mean, deviation and best of a column, or None without a result or if its summary lacks it."""
    values = None if result is None else result.summary["metrics"].get(column.of, {}).get(column.metric)
    if values is None:
        return None
    return {key: None if values[key] is None else 100 * values[key] for key in ("mean", "deviation", "best")}


def _with_deviation(mean, deviation):
    return f"{mean:.2f}" if deviation is None else f"{mean:.2f} ± {deviation:.2f}"


def _names_of(table):
    return [name for name, (of, _, _) in table_recipes().items() if of is table]


def table_csv(table: Table, placed: Mapping[str, list[Result]]) -> str:
    """Return a table's results as CSV, in percent, one line per result and column."""
    rows = []
    for data in table.data.values():
        for row, result, cells in _entries(table, data, placed):
            for column, figure, values, difference in cells:
                if values is None:
                    continue
                published, published_deviation = figure or (None, None)
                rows.append({
                    "table": table.name, "data": data.key, "row": row.key, "label": row.label, "column": column.label,
                    "published": published, "published_deviation": published_deviation, **values,
                    "statistic": table.statistic, "difference": difference,
                    "evaluations": result.summary["evaluations"],
                    "early_stopping_on": "test classes" if result.stops_on_test else "validation classes",
                    "status": f"changed: {result.changes}" if result.changes else "as published",
                    "recipe_hash": result.hash, "folder": result.folder,
                })  # fmt: skip
    return _csv(rows)


def _csv(rows):
    """Dicts with the same keys as CSV, with four decimals."""
    lines = [[f"{value:.4f}" if isinstance(value, float) else value for value in row.values()] for row in rows]
    return csv_text([*rows[:1], *lines])


def group_runs(runs: Iterable[Run]) -> list[list[Run]]:
    """Group runs that differ only in seed and name, sorted by their recipes' names.

    Keras 2 and 3 produce different numbers for the same seed, so their runs are in different groups.
    """
    groups: dict[tuple[str, str], list[Run]] = {}
    for run in sorted(runs, key=lambda run: (run.recipe.data.name, run.recipe.name, run.keras, str(run.folder))):
        key = recipe_hash(dataclasses.replace(run.recipe, seed=0)), run.keras
        groups.setdefault(key, []).append(run)
    return list(groups.values())


def runs_text(groups: Sequence[Sequence[Run]]) -> str:
    """Return groups of runs in Markdown: a table per dataset, a row per group."""
    header = ["recipe", "differs in", *_METRICS, *(f"{label} untrained" for label in _METRICS), "n", "seeds"]
    tables: dict[str, list[list[Any]]] = {}
    for group, difference in zip(groups, _differences(groups)):
        numbers = [_statistics(group, kind, name) for kind in ("test", "untrained") for name in _METRICS.values()]
        cells = [_NO_VALUE if mean is None else _with_deviation(mean, deviation) for mean, deviation in numbers]
        row = [_names_in(group), difference, *cells, len(group), _seeds_of(group)]
        tables.setdefault(group[0].recipe.data.name, []).append(row)
    parts = ["# Runs", "Test classes, percent: mean ± standard deviation over n runs with the same recipe."]
    for data, rows in tables.items():
        parts += [f"## {data}", markdown_table(header, rows)]
    return "\n\n".join(parts) + "\n"


def runs_csv(groups: Sequence[Sequence[Run]]) -> str:
    """Return groups of runs as CSV, in percent, one line per group and metric."""
    rows = []
    for group, difference in zip(groups, _differences(groups)):
        for metric in group[0].test:
            mean, deviation = _statistics(group, "test", metric)
            if mean is not None:
                rows.append({
                    "recipe": _names_in(group), "data": group[0].recipe.data.name, "differs_in": difference,
                    "metric": metric, "n": len(group), "mean": mean, "deviation": deviation,
                    "untrained": _statistics(group, "untrained", metric)[0], "seeds": _seeds_of(group),
                    "folders": " ".join(str(run.folder) for run in group),
                })  # fmt: skip
    return _csv(rows)


def _statistics(group, kind, metric):
    """Mean and standard deviation in percent: None if a run lacks the metric, and no deviation of one run."""
    values = [getattr(run, kind).get(metric) for run in group]
    if None in values:
        return None, None
    return 100 * statistics.mean(values), 100 * statistics.stdev(values) if len(values) > 1 else None


def _names_in(group):
    return ", ".join(dict.fromkeys(run.recipe.name for run in group))


def _seeds_of(group):
    return ", ".join(str(run.recipe.seed) for run in sorted(group, key=lambda run: run.recipe.seed))


def _differences(groups):
    """For each group the values that differ among the groups of the same name."""
    values = [{**decisive_values(group[0].recipe), "seed": 0, "keras": group[0].keras} for group in groups]
    texts = []
    for group, own in zip(groups, values):
        same = [other for of, other in zip(groups, values) if _names_in(of) == _names_in(group)]
        texts.append(", ".join(f"{key}={_value(own, key)}" for key in _differing(same)))
    return texts


def tables_main(argv: Sequence[str] | None = None) -> int:
    """Print tables from the command line, and write them. The exit code is 1 if nothing is finished.

    Args:
        argv: sequence of str. Arguments. Default: those of the process.
    """
    parser = CommandParser(
        usage="%(prog)s [FOLDER ...] [--table TABLE] [--out DIR]",
        description="Prints finished runs as tables, and protocols next to the published figures of their rows.",
        epilog=_EXAMPLES,
    )
    parser.add_argument(
        "FOLDER", nargs="*", help="Folders of runs and protocols, or folders that contain them (default: runs)."
    )
    parser.add_argument("--table", metavar="TABLE", help=f"One of {', '.join(table_names())} (default: all).")
    parser.add_argument("--out", metavar="DIR", help="Also write each table as Markdown and CSV to this folder.")
    add_import_options(parser)
    given = parser.parse_given(sys.argv[1:] if argv is None else list(argv))
    with parser.refusing_input_errors(), plugins.trusting(given.pop("trust", False)):
        plugins.import_modules(given.pop("import", None) or [])
        return _print_tables(given.get("FOLDER") or ["runs"], given.get("table"), given.get("out"))


def _print_tables(folders, only, out):
    tables = [load_table(name) for name in ([only] if only is not None else table_names())]
    found = find_results(folders)
    placed, others = place_results(found.results, {table.name for table in tables})
    texts = {}
    for table in tables:
        if any(name in placed for name in _names_of(table)):
            texts[f"{table.name}.md"] = table_text(table, placed)
            texts[f"{table.name}.csv"] = table_csv(table, placed)
    if found.runs and only is None:
        groups = group_runs(found.runs)
        texts["runs.md"], texts["runs.csv"] = runs_text(groups), runs_csv(groups)
    if rest := _rest_text(found, others):
        texts["other-runs.md"] = rest
    print("\n".join(text for name, text in texts.items() if name.endswith(".md")), end="")
    if out is not None:
        folder = pathlib.Path(out).expanduser()
        try:
            folder.mkdir(parents=True, exist_ok=True)
            for name, text in texts.items():
                write_text(folder / name, text)
        except OSError as error:
            raise InputError(f"The tables cannot be written to {folder}: {error.strerror or error}.") from error
    return 0 if placed or others or found.runs else 1


def _rest_text(found, others):
    """Runs and protocols that are in no table, as Markdown. Empty if there are none."""
    sections = {
        "Not finished; train.py --resume FOLDER continues": found.unfinished,
        "Cannot be used": found.unreadable,
        "Finished, not in a row of these tables": [(result.folder, _protocol_text(result)) for result in others],
    }
    texts = [
        f"# {title}\n\n" + "\n".join(f"- {folder}: {text}" for folder, text in lines)
        for title, lines in sections.items()
        if lines
    ]
    return "\n\n".join(texts) + "\n" * bool(texts)


def _protocol_text(result):
    """A protocol's recipe and metrics in one line, in percent."""
    texts = []
    for of in result.summary["metrics"]:
        for label, metric in _METRICS.items():
            if values := _percent(result, Column(label, of, metric)):
                texts.append(f"{of} {label} {_with_deviation(values['mean'], values['deviation'])}")
    recipe = f"{result.recipe.name}, recipe {result.hash}"
    return f"{recipe}: {', '.join(texts)} (n={result.summary['evaluations']})"


if __name__ == "__main__":
    sys.exit(tables_main())
