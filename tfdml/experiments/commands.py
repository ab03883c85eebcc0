"""The commands `tfdml-train` and `tfdml-evaluate`.

TensorFlow is imported in the functions that use it: help, lists and errors of arguments do not wait for it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import functools
import json
import logging
import statistics
import sys
from collections.abc import Iterator, Sequence
from typing import Literal, Union

from tfdml._utils.command_line import CommandParser
from tfdml._utils.input_errors import InputError
from tfdml._utils.typed_values import kinds_of
from tfdml.experiments import names, plugins
from tfdml.experiments.options import TRUST, add_import_options, add_recipe_options
from tfdml.experiments.recipe import Recipe, TrainingConfig
from tfdml.experiments.recipe_files import dump_recipe, load_preset, load_recipe, preset_names, recipe_names
from tfdml.experiments.table_files import all_tables

_METRIC_NAMES = {"map_at_r": "MAP@R", "precision_at_1": "P@1"}

_TRAIN_EXAMPLES = """
examples:
  %(prog)s                                           # the default recipe
  %(prog)s gap --training.max_validations 10         # a recipe with a change
  %(prog)s --recipe mine.yaml --out runs/mine        # your own recipe, in a folder of your choice
  %(prog)s gap --seeds 0,1,2 --out runs/gap          # a recipe with three seeds, and their mean
  %(prog)s gap --strategy mirrored                   # on all GPUs of this machine
  %(prog)s --resume runs/mine                        # continue an interrupted run or protocol
  %(prog)s --resume runs/mine --training.max_validations 200  # train longer
  %(prog)s gap --protocol.name fair                  # the runs of the fair protocol, and their mean
  %(prog)s --queue 'table-5.1/cub/*' --out runs/cub  # several recipes; repeat to continue
  %(prog)s --queue mine/*.yaml --out runs/mine       # several recipes of your own
  %(prog)s gsp --print-recipe > mine.yaml            # a recipe file to edit
  %(prog)s gap --preset thesis/c2-cub                # published hyperparameters merged into a recipe
  %(prog)s --list losses                             # the names that --loss.name accepts
  %(prog)s gap --import my_losses.py --loss.name mine  # a loss that my_losses.py registers

Values are YAML: 1e-3, true, null, [1,2,4]. Defaults are those of the default recipe; --print-recipe shows the values
of another one. Options are given one by one: --loss.options.negative_margin 0.6."""

_EVALUATE_EXAMPLES = """
examples:
  %(prog)s runs/mine                                  # the run's own test classes
  %(prog)s runs/mine --split validation
  %(prog)s runs/fair/runs/repeat0-fold* --ensemble    # the embeddings of several networks, concatenated
  %(prog)s runs/mine/saved_model --data digits        # any dataset, all classes
  %(prog)s runs/mine --data IMAGES                    # a folder with one subfolder per class
  %(prog)s runs/mine --data glyphs --options.min_typefaces 20
  %(prog)s --list datasets                            # the names that --data accepts

Values are YAML: 20, false, null, [1,2,4]."""


def train_main(argv: Sequence[str] | None = None) -> int:
    """Train from the command line.

    Args:
        argv: sequence of str. Arguments. Default: those of the process.

    Returns:
        The exit code: 1 if the loss is not finite or another worker died, 130 after Ctrl-C. Wrong input exits with 2.
    """
    parser = _train_parser()
    given = parser.parse_given(sys.argv[1:] if argv is None else argv)
    overrides = {field.name: given.pop(field.name) for field in dataclasses.fields(Recipe) if field.name in given}
    out, verbose, strategy, seeds = (given.get(name) for name in ("out", "verbose", "strategy", "seeds"))
    listed = next((kind for kind in ("presets", "recipes") if f"list_{kind}" in given), given.get("list"))
    modules = given.pop("import", [])
    with parser.refusing_input_errors(), plugins.trusting(given.pop("trust", False)):
        imports = plugins.import_modules(modules)
        if listed is not None:
            print("\n".join(_list(listed, modules)))
            return 0
        if "resume" in given:
            longer = overrides.get("training", {}).pop("max_validations", None)
            if given.keys() - {"resume", "strategy", "verbose"} or any(values != {} for values in overrides.values()):
                parser.refuse(
                    "--resume takes everything from the run. Expected: no recipe, --out, presets or changes except "
                    "--training.max_validations and --strategy."
                )
            return _run(lambda: _resume(given["resume"], strategy, longer, verbose))
        if imports:
            overrides["imports"] = imports
        if strategy is not None:
            overrides.setdefault("training", {})["strategy"] = strategy
        changes = overrides, given.get("preset", [])
        if "queue" in given:
            if given.keys() & {"RECIPE", "recipe", "print_recipe", "seeds"}:
                parser.refuse("--queue names all recipes itself. Expected: no RECIPE, --seeds or --print-recipe.")
            if out is None:
                parser.refuse("--queue needs --out. Expected: the folder of all runs.")
            return _run_queue(lambda queues: queues.load_queue(given["queue"], *changes), out, verbose)
        if {"RECIPE", "recipe"} <= given.keys():
            parser.refuse(f"Two recipes. Received: {given['RECIPE']} and --recipe {given['recipe']}. Expected: one.")
        recipe = load_recipe(given.get("RECIPE") or given.get("recipe") or "default", *changes)
        if "print_recipe" in given:
            print(dump_recipe(recipe), end="")
            return 0
        if seeds is None:
            return _run(lambda: _train(recipe, out, verbose))
        if recipe.protocol.name != "single" or recipe.training.strategy == "multi_worker":
            parser.refuse(
                f"--seeds repeats a single run on one machine. Received: protocol.name={recipe.protocol.name!r}, "
                f"training.strategy={recipe.training.strategy!r}. Pass --protocol.repeats to repeat a protocol."
            )
        out = out or f"runs/{recipe.name.replace('/', '-')}-{datetime.datetime.now():%Y%m%d-%H%M%S}"
        return _run_queue(lambda queues: queues.with_seeds(recipe, _read_seeds(seeds)), out, verbose, as_one=True)


def evaluate_main(argv: Sequence[str] | None = None) -> int:
    """Evaluate from the command line. Wrong arguments and input exit with 2.

    Args:
        argv: sequence of str. Arguments. Default: those of the process.
    """
    parser = _evaluate_parser()
    given = parser.parse_given(sys.argv[1:] if argv is None else argv)
    modules = given.pop("import", [])
    with parser.refusing_input_errors():
        plugins.import_modules(modules)
    if "list" in given:
        print("\n".join(_list(given["list"], modules)))
        return 0
    paths, as_one, out = given.pop("RUN_OR_SAVEDMODEL", None), given.pop("ensemble", False), given.get("out")
    if not paths:
        parser.refuse("No run. Expected: RUN_OR_SAVEDMODEL, the folder of a run or of an exported SavedModel.")
    if len(paths) > 1 and out is not None and not as_one:
        parser.refuse(f"One folder for several evaluations. Received: --out {out} with {len(paths)} runs.")
    data, options, figures = given.pop("data", None), given.pop("options", {}), not given.pop("no_figures", False)
    splitting = {name: given.pop(name) for name in _SPLITTING if name in given}
    for path in [paths] if as_one else paths:
        with parser.refusing_input_errors(), _console_log():
            from tfdml.experiments.evaluation import evaluate

            done = evaluate(path, data, options, splitting=splitting, figures=figures, **given)
        together = f", {len(paths)} networks as one" if as_one else ""
        print(f"{done.data}, {done.split} classes: {done.images} images of {done.classes} classes{together}")
        for name, value in done.metrics.items():
            print(f"  {name:26} {value:.4f}" if isinstance(value, float) else f"  {name:26} {value}")
        print(f"Files: {done.folder}")
    return 0


def _train(recipe, out, verbose):
    if recipe.protocol.name != "single":
        from tfdml.experiments.protocols import run_protocol

        return run_protocol(recipe, out, verbose=verbose)
    from tfdml.experiments.runner import train

    return train(recipe, out, verbose=verbose)


def _run(run):
    """Call a function that trains, print its result, and return the exit code."""
    from tfdml.experiments.runner import NonFiniteLossError
    from tfdml.experiments.strategies import WorkerLostError

    try:
        with _console_log():
            result = run()
    except (NonFiniteLossError, WorkerLostError) as error:
        print(f"Training stopped: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt as error:
        folder = getattr(error, "folder", None)
        what = "No run folder was created." if folder is None else f"Continue with --resume {folder}"
        print(f"\nInterrupted. {what}", file=sys.stderr)
        return 130
    print(_summary(result))
    return 0


def _run_queue(load, out, verbose, as_one=False):
    """Train the recipes that `load` gets from the module `queue`, and return the exit code."""
    from tfdml.experiments import queue

    try:
        with _console_log():
            results, errors = queue.run_all(load(queue), out, verbose=verbose)
    except KeyboardInterrupt:
        print("\nInterrupted. The same command with the same --out continues.", file=sys.stderr)
        return 130
    for name, result in results.items():
        print(f"{name}\n{_summary(result)}\n")
    if as_one and results:
        print(_summary_of_seeds(list(results.values())))
    print(f"{len(results)} of {len(results) + len(errors)} {'runs' if as_one else 'recipes'} finished in {out}.")
    return 1 if errors else 0


def _read_seeds(text):
    """Read `0,1,2`."""
    seeds = text.replace(" ", "").split(",")
    if not all(seed.isdecimal() and len(seed) < 11 and int(seed) < 2**32 for seed in seeds):
        raise InputError(f"Seeds are not whole numbers. Received: --seeds {text}. Expected: as in --seeds 0,1,2.")
    if len(set(map(int, seeds))) < len(seeds):
        raise InputError(f"A seed is given twice. Received: --seeds {text}. Expected: different seeds.")
    return [int(seed) for seed in seeds]


def _resume(folder, strategy, max_validations, verbose):
    from tfdml.experiments.protocols import is_protocol_folder, resume_protocol
    from tfdml.experiments.run_folder import RunFolder
    from tfdml.experiments.runner import resume

    # Errors of one of several workers must not end it here, because the others would wait for it.
    if strategy != "multi_worker":
        if is_protocol_folder(folder):
            changed = {"--strategy": strategy, "--training.max_validations": max_validations}
            for option, value in changed.items():
                if value is not None:
                    raise InputError(f"A protocol resumes as it began. Received: {option} {value} with {folder}.")
            return resume_protocol(folder, verbose=verbose)
        if RunFolder.open(folder).is_finished and max_validations is None:
            print("This run is finished; there is nothing to resume.")
    return resume(folder, strategy=strategy, max_validations=max_validations, verbose=verbose)


def _summary(result):
    """What is printed about a finished run or protocol."""
    from tfdml.experiments.protocols import ProtocolResult

    return _summary_of_protocol(result) if isinstance(result, ProtocolResult) else _summary_of_run(result)


def _summary_of_protocol(result):
    summary = result.summary
    number, note = summary["evaluations"], ", early stopping on the test classes" * summary["monitors_test_classes"]
    lines = [f"Protocol {summary['protocol']}{note}: {number} evaluation{'s' * (number > 1)}", "Test classes"]
    for kind, metrics in summary["metrics"].items():
        lines.append(f"  {kind}")
        lines += [f"    {name:18} {_mean(values['mean'], values['deviation'])}" for name, values in metrics.items()]
    return "\n".join([*lines, f"Files: {result.folder}"])


def _mean(mean, deviation):
    return f"{mean:6.4f}" + ("" if deviation is None else f" ± {deviation:.4f}")


def _summary_of_run(result):
    monitor, training = next(name for name in result.validation if name != "epoch"), result.training
    projections = f", {training['projections']} projections" if "projections" in training else ""
    value = f"validation {_METRIC_NAMES[monitor]} {result.validation[monitor]:.4f}"
    best = f"best {value} after validation {result.validation['epoch']}."
    if not result.validation["epoch"]:
        best = f"NO VALIDATION WAS BETTER than the untrained network ({value}), whose weights are kept."
    lines = [
        f"Trained for {training['steps']} steps in {training['seconds']:.0f} s{projections}; {best}",
        "Test classes        MAP@R     P@1",
    ]
    for name, metrics in {"untrained": result.untrained, "trained": result.test}.items():
        lines.append(f"  {name:15}  {metrics['map_at_r']:6.4f}  {metrics['precision_at_1']:6.4f}")
    paths = {"metrics": "test_metrics.json", "SavedModel": "saved_model", "figures": "figures"}
    files = [f"{kind} {name}" for kind, name in paths.items() if _has_content(result.folder / name)]
    return "\n".join([*lines, f"Files in {result.folder}: {', '.join(files)}"])


def _has_content(path):
    return path.is_file() or (path.is_dir() and any(path.iterdir()))


def _summary_of_seeds(results):
    lines = [f"Test classes, mean of {len(results)} seeds"]
    for name in results[0].test:
        values = [result.test[name] for result in results if isinstance(result.test.get(name), float)]
        if len(values) == len(results):
            deviation = statistics.stdev(values) if len(values) > 1 else None
            lines.append(f"  {name:26} {_mean(statistics.mean(values), deviation)}")
    return "\n".join(lines)


def _list(kind, imported=()):
    """The lines of --list: recipes with their descriptions, presets with their values, or names.

    Without imported modules these are the names in the package, for which TensorFlow is not needed.
    """
    if kind == "presets":
        presets = {name: load_preset(name).items() for name in preset_names()}
        return [
            f"{name:32} " + " ".join(f"{key}: {json.dumps(value)}".replace('"', "") for key, value in items)
            for name, items in presets.items()
        ]
    if kind != "recipes":
        return names.registered(kind) if imported else list(names.KINDS[kind])
    lines = [f"{known:14} {load_recipe(known).description}" for known in recipe_names(tables=False)]
    for table in all_tables():
        lines += ["", table.title, *(f"  {recipes}" for recipes in table.recipes_in_braces())]
    return lines


@functools.cache
def _train_parser():
    """Cached because creating it takes much longer than using it."""
    parser = CommandParser(
        usage="%(prog)s [RECIPE] [--preset PRESET ...] [--KEY VALUE ...] [--out DIR]\n"
        "       %(prog)s --resume RUN\n       %(prog)s --queue PATTERN ... --out DIR",
        description="Trains an embedder by a recipe and writes weights, metrics, exports and figures to a run folder.",
        epilog=_TRAIN_EXAMPLES,
    )
    parser.add_argument(
        "RECIPE", nargs="?", help="Recipe of the package (--list recipes), row of a table (table-3.1/cub/c2-ccp-l) or "
        "YAML file (default: default).",
    )  # fmt: skip
    parser.add_argument(
        "--preset", metavar="PRESET", action="append", help="Preset merged into the recipe. Repeatable."
    )
    parser.add_argument(
        "--queue", metavar="PATTERN", nargs="+",
        help="Train several recipes, each in a folder inside --out. Names of recipes with * and ?, or YAML files.",
    )  # fmt: skip
    parser.add_options({
        "--recipe RECIPE": "Same as RECIPE.",
        "--out DIR": "Folder of the run, which must not exist (default: runs/NAME-DATE-TIME).",
        "--seeds N,N,…": "Train once per seed, in the folders seedN of --out, and print the mean.",
        "--strategy": (
            kinds_of(TrainingConfig)["strategy"],
            "Devices: one, all of this machine, or those of several workers (docs/distributed.md). Same as "
            "--training.strategy, but also accepted with --resume (default: single).",
        ),
        "--resume RUN": "Continue the interrupted run in this folder.",
        "--verbose": (
            Literal[0, 1, 2],
            "0: silent, 1: progress bar and one line per validation, 2: only the lines (default: 1 on a terminal, "
            "else 2).",
        ),
        "--list": (Literal[("recipes", "presets", *names.KINDS)], "Print these names and exit."),
        "--list-recipes": "Same as --list recipes.",
        "--list-presets": "Same as --list presets.",
        "--print-recipe": "Print the whole recipe as YAML and exit.",
    })  # fmt: skip
    add_import_options(parser)
    add_recipe_options(parser, load_recipe("default"))
    return parser


_SPLITTING = {
    "validation_classes": (float, "Share of the classes for validation (default: the run's, or 0.2)."),
    "test_classes": (Union[float, Literal["published"]], "Share of the classes for test (default: the run's, or 0.3)."),
    "fold": (int, "Part of the training classes (0-based) for validation (default: the run's, or null)."),
    "folds": (int, "Number of parts into which --fold divides the classes (default: the run's, or 4)."),
    "split_seed": (int, "Seed for shuffling the classes before the split (default: the run's, or null)."),
}


def _evaluate_parser():
    parser = CommandParser(
        usage="%(prog)s RUN_OR_SAVEDMODEL ... [--ensemble] [--data NAME_OR_FOLDER] [--split SPLIT] [--out DIR]",
        description="Evaluates a trained embedder on any data: retrieval metrics and figures.",
        epilog=_EVALUATE_EXAMPLES,
    )
    parser.add_argument(
        "RUN_OR_SAVEDMODEL", nargs="*",
        help="Folders of runs or exported SavedModels, evaluated one after the other.",
    )  # fmt: skip
    parser.add_options({
        "--ensemble": "Evaluate them as one network with concatenated embeddings.",
        "--data NAME_OR_FOLDER": "Dataset (--list datasets) or folder of images (default: the run's own).",
        "--options": (dict, "Options of the dataset, as in --options.min_typefaces 20."),
        "--split": (
            Literal["all", "train", "validation", "test"],
            "Classes to evaluate (default: test for the run's own data, else all).",
        ),
        **{f"--{name}": option for name, option in _SPLITTING.items()},
        "--out DIR": "Folder of the results, which must not exist (default: a new one in evaluations/ of the run).",
        "--no-figures": "Write metrics without figures.",
        "--list": (Literal["datasets"], "Print the names of the datasets and exit."),
        "--search": (
            Literal["exact", "faiss"],
            "Nearest-neighbor search; faiss is approximate and reports its recall (default: the run's, or exact).",
        ),
    })  # fmt: skip
    add_import_options(parser, TRUST)
    return parser


@contextlib.contextmanager
def _console_log() -> Iterator[None]:
    """Show the log messages of runs. Those of callbacks are already in the progress line and the log file."""
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(logging.Formatter("%(message)s"))
    handler.addFilter(
        lambda record: record.name.startswith("tfdml.experiments") or record.levelno >= logging.WARNING
    )
    ours, of_tensorflow = logging.getLogger("tfdml"), logging.getLogger("tensorflow")
    before = ours.level, ours.propagate, of_tensorflow.level
    ours.setLevel(logging.INFO)
    ours.addHandler(handler)
    # TensorFlow adds a handler to the root logger, which would show everything twice.
    ours.propagate = False
    # TensorFlow's warnings on retracing are for the authors of the program.
    of_tensorflow.setLevel(logging.ERROR)
    try:
        yield
    finally:
        ours.removeHandler(handler)
        level, ours.propagate, level_of_tensorflow = before
        ours.setLevel(level)
        of_tensorflow.setLevel(level_of_tensorflow)
