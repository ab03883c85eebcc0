"""Finished runs and protocols as tables: next to published figures, or grouped by recipe.

python -m tfdml.experiments.tables [FOLDER ...] [--table TABLE] [--out DIR]
"""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import functools
import io
import operator
import os
import pathlib
import statistics
import sys
from typing import NamedTuple

from tfdml._utils.command_line import CommandParser
from tfdml._utils.markdown import markdown_table
from tfdml._utils.plain_files import write_text
from tfdml._utils.typed_values import to_mapping
from tfdml.experiments import plugins
from tfdml.experiments.errors import InputError
from tfdml.experiments.options import add_import_options
from tfdml.experiments.recipe import Recipe
from tfdml.experiments.recipe_files import decisive_values, load_recipe, recipe_hash, table_recipe_mapping
from tfdml.experiments.run_folder import RunFolder, read_json
from tfdml.experiments.table_files import Column, load_table, table_names, table_recipes

_EXAMPLES = """
examples:
  %(prog)s                                  # everything in the folder runs
  %(prog)s runs /scratch/more --out tables  # two folders; also writes Markdown and CSV
  %(prog)s runs --table table-3.1           # one published table

Runs with the same recipe but for the seed, under the same line of Keras, are one row: mean ± standard deviation."""

_NO_VALUE = "–"
_METRICS = {"MAP@R": "map_at_r", "P@1": "precision_at_1"}


class Result(NamedTuple):
    """A finished protocol. `summary` is its summary.json, `changes` is how it differs from the row that it is in."""

    folder: pathlib.Path
    recipe: Recipe
    summary: dict
    changes: str = ""

    @property
    def hash(self):
        """The hash of its recipe."""
        return self.summary["recipe_hash"]

    @property
    def stops_on_test(self):
        """Whether its test classes chose the best weights."""
        return self.summary["protocol"] == "conventional"


class Run(NamedTuple):
    """A finished run of its own, with its metrics on the test classes after and before training.

    `keras` is the major version of Keras that it was made under.
    """

    folder: pathlib.Path
    recipe: Recipe
    test: dict
    untrained: dict
    keras: str = "unknown"


class Findings(NamedTuple):
    """What folders contain. The last two have pairs of a folder and a text: how far it is, and why it is unusable."""

    results: list[Result]
    runs: list[Run]
    unfinished: list
    unreadable: list


def find_results(folders):
    """`Findings`: the runs and protocols in folders, and in all folders below; InputError if there are none."""
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
        else:
            (found.runs if is_run else found.results).append(one)
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
def _reading(path, remedy=""):
    """Re-raises the errors of a file that is not as it was written as InputError."""
    try:
        yield
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path} is damaged ({type(error).__name__}: {error}).{remedy}") from error


def _read_run(folder, recipe):
    """A `Run`, or, as text, which one is not finished."""
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
    return Run(folder, recipe, test, untrained, _keras_of(run.read_environment()))


def _keras_of(environment):
    """The major version of Keras in the content of an environment.json."""
    packages = environment.get("packages") if isinstance(environment, dict) else None
    version = packages.get("keras") if isinstance(packages, dict) else None
    return version.split(".")[0] if isinstance(version, str) and version else "unknown"


def _read_protocol(folder, recipe):
    """A `Result`, or, as text, how many runs are finished."""
    from tfdml.experiments.protocols import ProtocolFolder, plan

    protocol = ProtocolFolder(folder)
    if not protocol.summary.exists():
        finished = [RunFolder(protocol.runs / run.name).is_finished for run in plan(recipe)]
        return f"{recipe.name}: {sum(finished)} of {len(finished)} runs"
    with _reading(protocol.summary, f" Remove it, and train.py --resume {folder} writes it again."):
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


def place_results(results, tables):
    """Finds the rows of results: those with the same recipe, or else, marked as changed, the one of the same name.

    Returns a dict from names of tables' recipes to lists of results, and a list of the results of no row.
    """
    names = [name for name, (table, _, _) in table_recipes().items() if table.name in tables]
    placed, others = {}, []
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
    rows = {}
    for name in table_recipes():
        rows.setdefault(recipe_hash(table_recipe_mapping(name)), []).append(name)
    return rows


def _changes(recipe, name):
    """How a recipe differs from that of a row, as in `"training.patience 60 → 30"`."""
    here, there = decisive_values(recipe), decisive_values(table_recipe_mapping(name))
    changed = sorted(key for key in {*here, *there} if here.get(key) != there.get(key))
    return ", ".join(f"{key} {_value(there, key)} → {_value(here, key)}" for key in changed)


def _value(values, key):
    """A recipe's value, from its `decisive_values` or the default."""
    default = functools.partial(functools.reduce, operator.getitem, key.split("."))
    return values[key] if key in values else default(to_mapping(Recipe()))


_LEGENDS = {
    (True, "mean"): "Per cent: as printed, and here: mean ± standard deviation over n evaluations "
    "(difference from the printed figure).",
    (True, "best"): "Per cent: as printed, the best of the repetitions, and here: mean ± standard deviation over n "
    "evaluations, the best of them (its difference from the printed figure).",
    (False, "mean"): "Per cent: mean ± standard deviation over n evaluations.",
}


def table_text(table, placed):
    """A table in Markdown: for each dataset with results all rows, with printed figures and those of the results."""
    parts = [f"# {table.title}", f"{table.source}."]
    if any(result.stops_on_test for name in _names_of(table) for result in placed.get(name, ())):
        parts.append("**Early stopping on the test classes.**")
    parts.append(_LEGENDS[table.has_figures, table.statistic])
    for data in table.data.values():
        if any(placed.get(table.recipe_name(row, data)) for row in table.rows.values()):
            parts += [f"## {data.label}", *_data_text(table, data, placed)]
    parts += ["\n".join(f"- {note}" for note in table.notes)] * bool(table.notes)
    return "\n\n".join(part.strip() for part in parts) + "\n"


def _data_text(table, data, placed):
    columns, rows, remarks = ["method"], [], {}
    for column in data.columns:
        columns += [f"{column.label}, printed"] * table.has_figures + [column.label]
    for row, result, cells in _entries(table, data, placed):
        label, known = row.label, [_NO_VALUE, _NO_VALUE]
        if doubt := row.doubts.get(data.key, row.doubts.get("all")):
            label += " †"
            remarks[f"† {row.label}: {doubt}"] = None
        if result is not None:
            known = [result.summary["evaluations"], result.hash]
            # Several results of one row, and changed ones, are told apart.
            label += f" ({result.folder})" * (len(placed[table.recipe_name(row, data)]) > 1)
            if result.changes:
                label += " *changed*"
                remarks[f"*changed* {result.folder}: {result.changes}"] = None
        texts = []
        for _, figure, values, difference in cells:
            printed = _NO_VALUE if figure is None else _with_deviation(*figure)
            texts += [printed] * table.has_figures + [_cell(values, difference, table.statistic)]
        rows.append([label, *texts, *known])
    return [markdown_table([*columns, "n", "recipe"], rows), *remarks]


def _entries(table, data, placed):
    """For each row and result, or None: both, and for each column the figure, the result's values, their difference."""
    for row in table.rows.values():
        if table.has_figures and data.key not in row.figures:
            continue
        figures = row.figures.get(data.key, [None] * len(data.columns))
        for result in placed.get(table.recipe_name(row, data)) or [None]:
            cells = []
            for column, figure in zip(data.columns, figures):
                values, difference = _percent(result, column), None
                # This is not the row of a changed recipe.
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


def table_csv(table, placed):
    """A table's results as CSV, a line for each result and column; figures in per cent."""
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
    """Dicts with the same keys as CSV; fractions have four digits."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerows(rows[:1])  # The keys of a dict are the header.
    for row in rows:
        writer.writerow(f"{value:.4f}" if isinstance(value, float) else value for value in row.values())
    return text.getvalue()


def group_runs(runs):
    """Runs that differ in nothing but the seed and the name, as lists in the order of their recipes' names.

    The two lines of Keras give different numbers for the same seed: their runs are groups of their own.
    """
    groups = {}
    for run in sorted(runs, key=lambda run: (run.recipe.data.name, run.recipe.name, run.keras, str(run.folder))):
        key = recipe_hash(dataclasses.replace(run.recipe, seed=0)), run.keras
        groups.setdefault(key, []).append(run)
    return list(groups.values())


def runs_text(groups):
    """Groups of runs in Markdown: a table for each dataset, a row for each group."""
    header = ["recipe", "differs in", *_METRICS, *(f"{label} untrained" for label in _METRICS), "n", "seeds"]
    tables = {}
    for group, difference in zip(groups, _differences(groups)):
        statistics_ = [_statistics(group, kind, name) for kind in ("test", "untrained") for name in _METRICS.values()]
        cells = [_NO_VALUE if mean is None else _with_deviation(mean, deviation) for mean, deviation in statistics_]
        row = [_names_in(group), difference, *cells, len(group), _seeds_of(group)]
        tables.setdefault(group[0].recipe.data.name, []).append(row)
    parts = ["# Runs", "Test classes, per cent: mean ± standard deviation over n runs with the same recipe."]
    for data, rows in tables.items():
        parts += [f"## {data}", markdown_table(header, rows)]
    return "\n\n".join(parts) + "\n"


def runs_csv(groups):
    """Groups of runs as CSV, a line for each group and metric; in per cent."""
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
    """Mean and standard deviation in per cent: None where a run lacks the metric, and no deviation of one run."""
    values = [getattr(run, kind).get(metric) for run in group]
    if None in values:
        return None, None
    return 100 * statistics.mean(values), 100 * statistics.stdev(values) if len(values) > 1 else None


def _names_in(group):
    return ", ".join(dict.fromkeys(run.recipe.name for run in group))


def _seeds_of(group):
    return ", ".join(str(run.recipe.seed) for run in sorted(group, key=lambda run: run.recipe.seed))


def _differences(groups):
    """For each group the values that tell it from other groups of the same name."""
    values = [{**decisive_values(group[0].recipe), "seed": 0, "keras": group[0].keras} for group in groups]
    texts = []
    for group, own in zip(groups, values):
        same = [other for of, other in zip(groups, values) if _names_in(of) == _names_in(group)]
        keys = sorted({key for other in same for key in {*other, *own} if other.get(key) != own.get(key)})
        texts.append(", ".join(f"{key}={_value(own, key)}" for key in keys))
    return texts


def tables_main(argv=None):
    """Prints tables from the command line, and writes them. The exit code is 1 if nothing is finished."""
    parser = CommandParser(
        usage="%(prog)s [FOLDER ...] [--table TABLE] [--out DIR]",
        description="Prints finished runs as tables, and protocols next to the published figures of their rows.",
        epilog=_EXAMPLES,
    )
    parser.add_argument(
        "FOLDER", nargs="*", help="Folders of runs and protocols, or folders with such folders below (default: runs)."
    )
    parser.add_argument("--table", metavar="TABLE", help=f"One of {', '.join(table_names())} (default: all).")
    parser.add_argument("--out", metavar="DIR", help="Also write each table as Markdown and CSV.")
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
        _write(pathlib.Path(out).expanduser(), texts)
    return 0 if placed or others or found.runs else 1


def _rest_text(found, others):
    """What is in no table, as Markdown; empty if there is nothing."""
    sections = {
        "Not finished; train.py --resume FOLDER goes on": found.unfinished,
        "Cannot be used": found.unreadable,
        "Finished, of no row of these tables": [(result.folder, _protocol_text(result)) for result in others],
    }
    texts = [
        f"# {title}\n\n" + "\n".join(f"- {folder}: {text}" for folder, text in lines)
        for title, lines in sections.items()
        if lines
    ]
    return "\n\n".join(texts) + "\n" * bool(texts)


def _protocol_text(result):
    """A protocol's recipe and metrics in one line, in per cent."""
    texts = []
    for of in result.summary["metrics"]:
        for label, metric in _METRICS.items():
            if values := _percent(result, Column(label, of, metric)):
                texts.append(f"{of} {label} {_with_deviation(values['mean'], values['deviation'])}")
    recipe = f"{result.recipe.name}, recipe {result.hash}"
    return f"{recipe}: {', '.join(texts)} (n={result.summary['evaluations']})"


def _write(folder, texts):
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in texts.items():
            write_text(folder / name, text)
    except OSError as error:
        raise InputError(f"The tables cannot be written to {folder}: {error.strerror or error}.") from error


if __name__ == "__main__":
    sys.exit(tables_main())
