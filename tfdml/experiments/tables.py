"""Finished runs and protocols as tables: next to published figures, or grouped by recipe.

python -m tfdml.experiments.tables [FOLDER ...] [--table TABLE] [--out DIR]
"""

from __future__ import annotations

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

from tfdml.experiments.errors import InputError
from tfdml.experiments.markdown import markdown_table
from tfdml.experiments.parsing import CommandParser, to_mapping
from tfdml.experiments.recipe import Recipe
from tfdml.experiments.recipe_files import decisive_values, load_recipe, recipe_hash, table_recipe_mapping
from tfdml.experiments.run_folder import RunFolder, read_json, write_text
from tfdml.experiments.table_files import load_table, table_names, table_recipes

_EXAMPLES = """
examples:
  %(prog)s                                  # everything in the folder runs
  %(prog)s runs /scratch/more --out tables  # two folders; also writes Markdown and CSV
  %(prog)s runs --table table-3.1           # one published table

Runs with the same recipe but for the seed are one row: mean ± standard deviation."""

_NO_VALUE = "–"
_CSV_HEADER = (
    "table", "data", "row", "label", "column", "published", "published_deviation", "mean", "deviation", "best",
    "statistic", "difference", "evaluations", "early_stopping_on", "status", "recipe_hash", "folder",
)  # fmt: skip


class Result(NamedTuple):
    """A finished protocol.

    Attributes:
        folder: Where it is.
        recipe: Its `Recipe`.
        summary: Its `summary.json`.
    """

    folder: pathlib.Path
    recipe: Recipe
    summary: dict

    @property
    def hash(self):
        """The hash of its recipe."""
        return self.summary["recipe_hash"]


class Run(NamedTuple):
    """A finished run that is not part of a protocol.

    Attributes:
        folder: Where it is.
        recipe: Its `Recipe`.
        test: Its metrics on the test classes.
        untrained: The same of the network before training.
    """

    folder: pathlib.Path
    recipe: Recipe
    test: dict
    untrained: dict


class Findings(NamedTuple):
    """What folders hold.

    Attributes:
        results: `Result`s.
        runs: `Run`s.
        unfinished: Of a run or protocol that has begun its folder and how far it is, as text.
        unreadable: Of one that cannot be used its folder and why.
    """

    results: list
    runs: list
    unfinished: list
    unreadable: list


def find_results(folders):
    """Looks for runs and protocols in folders, and in all folders below.

    Args:
        folders: Paths of the folders of runs and protocols, or of folders that contain some.

    Returns:
        `Findings`.

    Raises:
        InputError: If there is no such folder, or neither run nor protocol in any of them.
    """
    from tfdml.experiments.protocols import ProtocolFolder

    found = Findings([], [], [], [])
    for folder in sorted({path.resolve(): path for top in folders for path in _folders_with_recipes(top)}.values()):
        try:
            recipe = load_recipe((folder / "recipe.yaml").resolve())
            if recipe.protocol.name == "single" or (folder / "environment.json").is_file():
                if RunFolder(folder).is_finished:
                    found.runs.append(_read_run(folder, recipe))
                else:
                    found.unfinished.append((folder, f"{recipe.name}, seed {recipe.seed}"))
                continue
            if not ProtocolFolder(folder).summary.exists():
                found.unfinished.append((folder, _progress(folder, recipe)))
                continue
            found.results.append(Result(folder, recipe, _read_summary(folder, recipe)))
        except InputError as error:
            found.unreadable.append((folder, str(error)))
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


def _read_run(folder, recipe):
    path = RunFolder(folder).test_metrics
    try:
        content = read_json(path)
        metrics = [
            {name: value for name, value in content[kind].items() if isinstance(value, float)}
            for kind in ("test", "untrained")
        ]
        if not all("map_at_r" in values for values in metrics):
            raise KeyError("map_at_r")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path} is damaged ({type(error).__name__}: {error}).") from error
    return Run(folder, recipe, *metrics)


def _progress(folder, recipe):
    from tfdml.experiments.protocols import ProtocolFolder, plan

    runs = plan(recipe)
    finished = sum(RunFolder(ProtocolFolder(folder).runs / run.name).is_finished for run in runs)
    return f"{recipe.name}: {finished} of {len(runs)} runs"


def _read_summary(folder, recipe):
    from tfdml.experiments.protocols import ProtocolFolder

    path = ProtocolFolder(folder).summary
    try:
        summary = read_json(path)
        for metrics in summary["metrics"].values():
            for values in metrics.values():
                if not isinstance(values["mean"], float) or not {"deviation", "best"} <= set(values):
                    raise KeyError("mean")
        known = (summary["recipe_hash"], int(summary["evaluations"]), summary["protocol"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"{path} is damaged ({type(error).__name__}: {error}). Remove it, and train.py --resume {folder} writes it "
            "anew."
        ) from error
    if known[0] != recipe_hash(recipe):
        raise InputError(
            f"{folder / 'recipe.yaml'} is not the recipe of {path.name}. Received: recipe {recipe_hash(recipe)}, "
            f"summary {known[0]}; expected the same."
        )
    return summary


class Placed(NamedTuple):
    """A result in its place.

    Attributes:
        result: The `Result`.
        changes: What its recipe has other than the row's, as text; empty if it is the row's recipe.
    """

    result: Result
    changes: str


def place_results(results, tables):
    """Finds the rows of results: those with the same recipe, or else, marked as changed, the one of the same name.

    Args:
        results: `Result`s.
        tables: Names of tables.

    Returns:
        Dict from names of tables' recipes to lists of `Placed`; and a list of the results of no row.
    """
    names = [name for name, (table, _, _) in table_recipes().items() if table.name in tables]
    placed, others = {}, []
    for result in results:
        same = [name for name in _rows_by_hash().get(result.hash, ()) if name in names]
        for name in same:
            placed.setdefault(name, []).append(Placed(result, ""))
        if not same and result.recipe.name in names:
            changes = _changes(result.recipe, result.recipe.name)
            placed.setdefault(result.recipe.name, []).append(Placed(result, changes))
        elif not same:
            others.append(result)
    return placed, others


@functools.cache
def _rows_by_hash():
    rows = {}
    for name in table_recipes():
        rows.setdefault(recipe_hash(table_recipe_mapping(name)), []).append(name)
    return rows


def _changes(recipe, name):
    """What a recipe has other than that of a row, as in `"training.patience 60 → 30"`."""
    here, there = decisive_values(recipe), decisive_values(table_recipe_mapping(name))
    defaults = to_mapping(Recipe())

    def value(values, key):
        return values[key] if key in values else functools.reduce(operator.getitem, key.split("."), defaults)

    changed = sorted(key for key in {*here, *there} if here.get(key) != there.get(key))
    return ", ".join(f"{key} {value(there, key)} → {value(here, key)}" for key in changed)


def table_text(table, placed):
    """A table in Markdown: for each data set with results all rows, the figures as printed and those of the results.

    Args:
        table: A `Table`.
        placed: As from `place_results`.
    """
    parts = [f"# {table.title}", f"{table.source}."]
    if any(_stops_on_test(one.result) for name in _names_of(table) for one in placed.get(name, ())):
        parts.append("**Early stopping on the test classes.**")
    parts.append(_LEGENDS[table.has_figures, table.statistic])
    for data in table.data.values():
        if any(placed.get(table.recipe_name(row, data)) for row in table.rows.values()):
            parts += [f"## {data.label}", *_data_text(table, data, placed)]
    if table.notes:
        parts.append("\n".join(f"- {note}" for note in table.notes))
    return "\n\n".join(part.strip() for part in parts) + "\n"


_LEGENDS = {
    (True, "mean"): "Per cent: as printed, and here: mean ± standard deviation over n evaluations "
    "(difference from the printed figure).",
    (True, "best"): "Per cent: as printed, the best of the repetitions, and here: mean ± standard deviation over n "
    "evaluations, the best of them (its difference from the printed figure).",
    (False, "mean"): "Per cent: mean ± standard deviation over n evaluations.",
}


def _data_text(table, data, placed):
    columns = ["method"]
    for column in data.columns:
        columns += [f"{column.label}, printed", column.label] if table.has_figures else [column.label]
    rows, remarks = [], []
    for row in table.rows.values():
        if table.has_figures and data.key not in row.figures:
            continue
        figures = row.figures.get(data.key, [None] * len(data.columns))
        doubt = row.doubts.get(data.key, row.doubts.get("all"))
        remarks += [f"† {row.label}: {doubt}"] if doubt else []
        of_row = placed.get(table.recipe_name(row, data), [])
        for one in of_row or [None]:
            label = row.label + " †" * bool(doubt)
            if one is not None:
                # Two runs of one row, and what was changed, are told apart.
                label += f" ({one.result.folder})" if len(of_row) > 1 else ""
                label += " *changed*" if one.changes else ""
                remarks += [f"*changed* {one.result.folder}: {one.changes}"] if one.changes else []
            cells = []
            for column, figure in zip(data.columns, figures):
                here = _NO_VALUE if one is None else _here(one, column, figure, table.statistic)
                cells += [_printed(figure), here] if table.has_figures else [here]
            known = (_NO_VALUE,) * 2 if one is None else (one.result.summary["evaluations"], one.result.hash)
            rows.append([label, *cells, *known])
    return [markdown_table([*columns, "n", "recipe"], rows), *remarks]


def _printed(figure):
    if figure is None:
        return _NO_VALUE
    return f"{figure.value:.2f}" + ("" if figure.deviation is None else f" ± {figure.deviation:.2f}")


def _here(one, column, figure, statistic):
    """A result's cell, as in `68.35 ± 0.41 (+0.12)`."""
    values = _percent(one.result, column)
    if values is None:
        return _NO_VALUE
    text = f"{values['mean']:.2f}"
    if values["deviation"] is not None:
        text += f" ± {values['deviation']:.2f}"
        text += f", best {values['best']:.2f}" if statistic == "best" else ""
    difference = _difference(one, values, figure, statistic)
    return text if difference is None else f"{text} ({difference:+.2f})"


def _percent(result, column):
    """Mean, deviation and best of a column, or None if the summary lacks it."""
    values = result.summary["metrics"].get(column.of, {}).get(column.metric)
    if values is None:
        return None
    return {key: None if values[key] is None else 100 * values[key] for key in ("mean", "deviation", "best")}


def _difference(one, values, figure, statistic):
    """From the printed figure; None without one, and of a changed recipe, whose row this is not."""
    return None if figure is None or one.changes else values[statistic] - figure.value


def _stops_on_test(result):
    return result.summary["protocol"] == "conventional"


def _names_of(table):
    return [name for name, (of, _, _) in table_recipes().items() if of is table]


def table_csv(table, placed):
    """A table's results as CSV, a line for each result and column; figures in per cent.

    Args:
        table: A `Table`.
        placed: As from `place_results`.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(_CSV_HEADER)
    for name in _names_of(table):
        _, row, data = table_recipes()[name]
        for one in placed.get(name, ()):
            figures = row.figures.get(data.key, [None] * len(data.columns))
            for column, figure in zip(data.columns, figures):
                values = _percent(one.result, column)
                if values is None:
                    continue
                numbers = [*(figure or (None, None)), *values.values()]
                difference = _difference(one, values, figure, table.statistic)
                writer.writerow([
                    table.name, data.key, row.key, row.label, column.label, *map(_rounded, numbers), table.statistic,
                    _rounded(difference), one.result.summary["evaluations"],
                    "test classes" if _stops_on_test(one.result) else "validation classes",
                    f"changed: {one.changes}" if one.changes else "as published", one.result.hash, one.result.folder,
                ])  # fmt: skip
    return text.getvalue()


def _rounded(number):
    return "" if number is None else f"{number:.4f}"


def group_runs(runs):
    """Runs whose recipes differ in nothing but the seed (and the name), as lists in the order of their recipes' names.

    Args:
        runs: `Run`s.
    """
    groups = {}
    for run in sorted(runs, key=lambda run: (run.recipe.data.name, run.recipe.name, str(run.folder))):
        groups.setdefault(recipe_hash(dataclasses.replace(run.recipe, seed=0)), []).append(run)
    return list(groups.values())


_RUN_COLUMNS = {"MAP@R": "map_at_r", "P@1": "precision_at_1"}
_RUN_CSV_HEADER = ("recipe", "data", "differs_in", "metric", "n", "mean", "deviation", "untrained", "seeds", "folders")


def runs_text(groups):
    """Groups of runs in Markdown: a table for each dataset, a row for each group."""
    parts = ["# Runs", "Test classes, per cent: mean ± standard deviation over n runs with the same recipe."]
    by_data = {}
    for group, difference in zip(groups, _differences(groups)):
        by_data.setdefault(group[0].recipe.data.name, []).append((group, difference))
    header = ["recipe", "differs in", *_RUN_COLUMNS, *(f"{name} untrained" for name in _RUN_COLUMNS), "n", "seeds"]
    for data, of_data in by_data.items():
        rows = []
        for group, difference in of_data:
            cells = [
                _mean_and_deviation([getattr(run, kind).get(metric) for run in group])
                for kind in ("test", "untrained")
                for metric in _RUN_COLUMNS.values()
            ]
            rows.append([_names_in(group), difference, *cells, len(group), _seeds_of(group)])
        parts += [f"## {data}", markdown_table(header, rows)]
    return "\n\n".join(parts) + "\n"


def runs_csv(groups):
    """Groups of runs as CSV, a line for each group and metric; in per cent."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(_RUN_CSV_HEADER)
    for group, difference in zip(groups, _differences(groups)):
        for metric in group[0].test:
            values = [run.test.get(metric) for run in group]
            if None in values:
                continue
            untrained = [run.untrained.get(metric) for run in group]
            writer.writerow([
                _names_in(group), group[0].recipe.data.name, difference, metric, len(group),
                _rounded(100 * statistics.mean(values)),
                _rounded(100 * statistics.stdev(values) if len(values) > 1 else None),
                "" if None in untrained else _rounded(100 * statistics.mean(untrained)), _seeds_of(group),
                " ".join(str(run.folder) for run in group),
            ])  # fmt: skip
    return text.getvalue()


def _mean_and_deviation(values):
    """As in `68.35 ± 0.41`; without a deviation of one value."""
    if None in values:
        return _NO_VALUE
    deviation = f" ± {100 * statistics.stdev(values):.2f}" if len(values) > 1 else ""
    return f"{100 * statistics.mean(values):.2f}{deviation}"


def _names_in(group):
    return ", ".join(dict.fromkeys(run.recipe.name for run in group))


def _seeds_of(group):
    return ", ".join(str(run.recipe.seed) for run in sorted(group, key=lambda run: run.recipe.seed))


def _differences(groups):
    """Of each group the values by which it is told from other groups of the same name."""
    values = [{**decisive_values(group[0].recipe), "seed": 0} for group in groups]
    defaults = to_mapping(Recipe())
    texts = []
    for group, own in zip(groups, values):
        same = [other for of, other in zip(groups, values) if _names_in(of) == _names_in(group)]
        keys = sorted(key for key in {key for other in same for key in other} if any(
            other.get(key) != own.get(key) for other in same
        ))  # fmt: skip
        shown = [(key, own.get(key, functools.reduce(operator.getitem, key.split("."), defaults))) for key in keys]
        texts.append(", ".join(f"{key}={value}" for key, value in shown))
    return texts


def tables_main(argv=None):
    """Prints tables from the command line, and writes them.

    Args:
        argv: The arguments; by default those of the program.

    Returns:
        The exit code: 0, or 1 if nothing is finished. Wrong arguments and input exit with 2.
    """
    parser = _parser()
    given = parser.parse_given(sys.argv[1:] if argv is None else list(argv))
    with parser.refusing_input_errors():
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
    rest = _rest_text(found, others)
    if rest:
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
        "Finished, of no row of these tables": [
            (one.folder, f"{one.recipe.name}, recipe {one.hash}: {_protocol_text(one)}") for one in others
        ],
    }
    return "\n\n".join(
        f"# {title}\n\n" + "\n".join(f"- {folder}: {text}" for folder, text in lines)
        for title, lines in sections.items()
        if lines
    ) + "\n" * any(sections.values())


def _protocol_text(result):
    """A protocol's metrics in one line, in per cent."""
    texts = []
    for of, metrics in result.summary["metrics"].items():
        for label, metric in _RUN_COLUMNS.items():
            if metric in metrics:
                values = metrics[metric]
                deviation = "" if values["deviation"] is None else f" ± {100 * values['deviation']:.2f}"
                texts.append(f"{of} {label} {100 * values['mean']:.2f}{deviation}")
    return f"{', '.join(texts)} (n={result.summary['evaluations']})"


def _write(folder, texts):
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in texts.items():
            write_text(folder / name, text)
    except OSError as error:
        raise InputError(f"The tables cannot be written to {folder}: {error.strerror or error}.") from error


def _parser():
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
    return parser


if __name__ == "__main__":
    sys.exit(tables_main())
