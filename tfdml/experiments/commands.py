"""The two commands, `tfdml-train` and `tfdml-evaluate`."""

from __future__ import annotations

import contextlib
import functools
import json
import logging
import sys
from typing import Literal, Union

from tfdml.experiments.errors import InputError
from tfdml.experiments.evaluation import evaluate
from tfdml.experiments.parsing import CommandParser, add_recipe_options
from tfdml.experiments.protocols import ProtocolResult, is_protocol_folder, resume_protocol, run_protocol
from tfdml.experiments.queue import run_queue
from tfdml.experiments.recipe_files import dump_recipe, load_preset, load_recipe, preset_names, recipe_names
from tfdml.experiments.run_folder import RunFolder
from tfdml.experiments.runner import NonFiniteLossError, resume, train
from tfdml.experiments.strategies import STRATEGIES, WorkerLostError
from tfdml.experiments.table_files import load_table, table_names

_METRIC_NAMES = {"map_at_r": "MAP@R", "precision_at_1": "P@1"}

_TRAIN_EXAMPLES = """
examples:
  %(prog)s                                         the default recipe
  %(prog)s gap --training.max_validations 10       a recipe with a change
  %(prog)s --recipe mine.yaml --out runs/mine      your own, in a folder of your choice
  %(prog)s --strategy mirrored                     on all GPUs of this machine, with the same result
  %(prog)s --resume runs/mine                      goes on after an interruption, with a protocol, too
  %(prog)s --resume runs/mine --training.max_validations 200   prolongs a run
  %(prog)s gap --protocol.name fair                the four runs of the fair protocol, and their mean
  %(prog)s --queue 'table-5.1/cub/*' --out runs/cub  a queue of recipes; the same again goes on
  %(prog)s gsp --print-recipe > mine.yaml          a recipe to change
  %(prog)s gap --preset thesis/c2-cub              published hyperparameters over a recipe; repeat --preset for more

Values are YAML: 1e-3, true, null, [1,2,4]. The defaults shown are those of the default recipe."""

_EVALUATE_EXAMPLES = """
examples:
  %(prog)s runs/mine                                    the run's own test classes
  %(prog)s runs/mine --split validation
  %(prog)s runs/fair/runs/repeat0-fold* --ensemble      the embeddings of several networks side by side
  %(prog)s runs/mine/saved_model --data digits          any data set, all classes
  %(prog)s runs/mine --data PICTURES                    a folder with a sub-folder for each class
  %(prog)s runs/mine --data glyphs --options.min_typefaces 20"""


def train_main(argv=None):
    """Trains from the command line.

    Args:
        argv: The arguments; by default those of the program.

    Returns:
        The exit code: 0, or 1 if the loss became no number or another worker died, or 130 after Ctrl-C. Wrong
        arguments and input exit with 2.
    """
    argv = sys.argv[1:] if argv is None else list(argv)
    parser = _train_parser()
    overrides = parser.parse_given(argv)
    positional, out, resumed, verbose = (
        overrides.pop(name, None) for name in ("RECIPE", "out", "resume", "verbose")
    )
    list_recipes, list_presets, print_recipe = (
        overrides.pop(name, False) for name in ("list_recipes", "list_presets", "print_recipe")
    )
    name, presets = overrides.pop("recipe", None), overrides.pop("preset", None) or []
    queue, strategy = overrides.pop("queue", None), overrides.pop("strategy", None)
    with parser.refusing_input_errors():
        if list_recipes:
            print("\n".join(_recipe_list()))
            return 0
        if list_presets:
            for known in preset_names():
                print(f"{known:32} {_in_one_line(load_preset(known))}")
            return 0
        if resumed is not None:
            longer = overrides.get("training", {}).pop("max_validations", None)
            changes = {section: values for section, values in overrides.items() if values != {}}
            if positional or name or queue or out or changes or presets or print_recipe:
                parser.refuse(
                    "--resume takes everything from the run: no recipe, --out, presets or changes go with it, but "
                    "--training.max_validations."
                )
            return _run(lambda: _resume(resumed, strategy, longer, verbose))
        if strategy is not None:
            overrides.setdefault("training", {})["strategy"] = strategy
        if queue is not None:
            if positional or name or resumed or print_recipe or out is None:
                parser.refuse("--queue names all recipes itself, and takes changes, presets and --out, which it needs.")
            return _run_queue(queue, out, overrides, presets, verbose)
        if positional and name:
            parser.refuse(f"Two recipes. Received: {positional!r} and --recipe {name}.")
        recipe = load_recipe(positional or name or "default", overrides, presets)
        if print_recipe:
            print(dump_recipe(recipe), end="")
            return 0
        if recipe.protocol.name != "single":
            return _run(lambda: run_protocol(recipe, out, verbose=verbose))
        return _run(lambda: train(recipe, out, verbose=verbose))


def evaluate_main(argv=None):
    """Evaluates from the command line.

    Args:
        argv: The arguments; by default those of the program.

    Returns:
        The exit code 0. Wrong arguments and input exit with 2.
    """
    argv = sys.argv[1:] if argv is None else list(argv)
    parser = _evaluate_parser()
    given = parser.parse_given(argv)
    paths, options = given.pop("RUN_OR_SAVEDMODEL"), given.pop("options", {})
    pictures, as_one = not given.pop("no_pictures", False), given.pop("ensemble", False)
    trust = given.pop("trust", False)
    data, split, out, search = (given.pop(name, None) for name in ("data", "split", "out", "search"))
    if len(paths) > 1 and out is not None and not as_one:
        parser.refuse(f"One folder for several evaluations. Received: --out {out} with {len(paths)} runs.")
    for path in [paths] if as_one else paths:
        with parser.refusing_input_errors(), _console_log():
            done = evaluate(
                path, data, options, split=split, splitting=given, out=out, pictures=pictures, search=search,
                trust=trust,
            )  # fmt: skip
        together = f", {len(paths)} networks as one" if as_one else ""
        print(f"{done.data}, {done.split} classes: {done.images} pictures of {done.classes} classes{together}")
        for name, value in done.metrics.items():
            print(f"  {name:26} {value:.4f}" if isinstance(value, float) else f"  {name:26} {value}")
        print(f"Files: {done.folder}")
    return 0


def _run(run):
    """Carries out a run and gives the exit code."""
    try:
        with _console_log():
            result = run()
    except NonFiniteLossError as error:
        print(f"Training stopped: {error}", file=sys.stderr)
        return 1
    except WorkerLostError as error:
        print(f"Training stopped: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt as error:
        folder = getattr(error, "folder", None)
        what = "No run folder has been made." if folder is None else f"Go on with --resume {folder}"
        print(f"\nInterrupted. {what}", file=sys.stderr)
        return 130
    print(_summary(result))
    return 0


def _run_queue(patterns, out, overrides, presets, verbose):
    try:
        with _console_log():
            results, errors = run_queue(patterns, out, overrides, presets, verbose=verbose)
    except KeyboardInterrupt:
        print("\nInterrupted. The same command again goes on.", file=sys.stderr)
        return 130
    for name, result in results.items():
        print(f"{name}\n{_summary(result)}\n")
    print(f"{len(results)} of {len(results) + len(errors)} recipes finished in {out}.")
    return 1 if errors else 0


def _resume(folder, strategy, max_validations, verbose):
    # Of several workers only the first has the folder.
    if strategy != "multi_worker":
        if is_protocol_folder(folder):
            if strategy is not None:
                raise InputError(
                    f"The runs of a protocol go on where they began. Received: --strategy {strategy} with {folder}."
                )
            if max_validations is not None:
                raise InputError(
                    "The runs of a protocol have the length of its recipe. Received: --training.max_validations "
                    f"{max_validations} with {folder}."
                )
            return resume_protocol(folder, verbose=verbose)
        if RunFolder.open(folder).is_finished and max_validations is None:
            print("This run is finished; there is nothing to resume.")
    return resume(folder, strategy=strategy, max_validations=max_validations, verbose=verbose)


def _summary(result):
    return _summary_of_protocol(result) if isinstance(result, ProtocolResult) else _summary_of_run(result)


def _summary_of_protocol(result):
    summary = result.summary
    number, note = summary["evaluations"], ", early stopping on the test classes" * summary["monitors_test_classes"]
    lines = [f"Protocol {summary['protocol']}{note}: {number} evaluation{'s' * (number > 1)}", "Test classes"]
    for kind, metrics in summary["metrics"].items():
        lines.append(f"  {kind}")
        for name, value in metrics.items():
            deviation = "" if value["deviation"] is None else f" ± {value['deviation']:.4f}"
            lines.append(f"    {name:18} {value['mean']:6.4f}{deviation}")
    return "\n".join([*lines, f"Files: {result.folder}"])


def _summary_of_run(result):
    monitored = next(name for name in result.validation if name != "epoch")
    training, test, untrained = result.training, result.test, result.untrained
    projections = f", {training['projections']} projections" if "projections" in training else ""
    value = f"validation {_METRIC_NAMES[monitored]} {result.validation[monitored]:.4f}"
    best = f"best {value} after validation {result.validation['epoch']}."
    if not result.validation["epoch"]:
        best = f"NO VALIDATION WAS BETTER than the untrained network ({value}), whose weights are kept."
    lines = [
        f"Trained for {training['steps']} steps in {training['seconds']:.0f} s{projections}; {best}",
        "Test classes        MAP@R     P@1",
        f"  untrained        {untrained['map_at_r']:6.4f}  {untrained['precision_at_1']:6.4f}",
        f"  trained          {test['map_at_r']:6.4f}  {test['precision_at_1']:6.4f}",
        f"Files: {result.folder}",
        f"  metrics {result.folder / 'test_metrics.json'}, SavedModel {result.folder / 'saved_model'}, "
        f"pictures {result.folder / 'pictures'}",
    ]
    return "\n".join(lines)


def _recipe_list():
    """The lines of --list-recipes: the recipes of the package, then those of each table with braces as a shell has."""
    lines = [f"{known:14} {load_recipe(known).description}" for known in recipe_names(tables=False)]
    for table in map(load_table, table_names()):
        lines += ["", table.title, *(f"  {names}" for names in table.recipes_in_braces())]
    return lines


def _in_one_line(mapping):
    """A preset as YAML without line breaks."""
    return " ".join(f"{key}: {json.dumps(value)}".replace('"', "") for key, value in mapping.items())


@functools.cache
def _train_parser():
    """Making it takes much longer than using it."""
    parser = CommandParser(
        usage="%(prog)s [RECIPE] [--preset PRESET ...] [--KEY VALUE ...] [--out DIR] | --resume RUN |"
        " --queue PATTERN ... --out DIR",
        description="Trains an embedder by a recipe and leaves a run folder with everything about it.",
        epilog=_TRAIN_EXAMPLES,
    )
    parser.add_argument(
        "RECIPE", nargs="?", help=f"One of {', '.join(recipe_names(tables=False))}, a row of a table as in "
        "table-3.1/cub/c2-ccp-l (--list-recipes has them all), or a YAML file.",
    )  # fmt: skip
    parser.add_argument("--recipe", metavar="RECIPE", help="The same as an option.")
    parser.add_argument(
        "--preset", metavar="PRESET", action="append", help="Part of a recipe that goes over it; can be repeated."
    )
    parser.add_argument(
        "--out", metavar="DIR", help="The run's folder, which must not exist; runs/NAME-DATE-TIME."
    )
    parser.add_argument(
        "--queue", metavar="PATTERN", nargs="+",
        help="Recipes one after the other, with * and ? as in a shell, each in its folder of --out; can go on.",
    )  # fmt: skip
    parser.add_argument(
        "--strategy", type=Literal[STRATEGIES],
        help="On which devices: one, all of this machine, or those of several workers (docs/distributed.md); the same "
        "as --training.strategy, and goes with --resume.",
    )  # fmt: skip
    parser.add_argument("--resume", metavar="RUN", help="Go on with an interrupted run.")
    parser.add_argument(
        "--verbose", type=Literal[0, 1, 2],
        help="Silence, a progress bar, or a line for each validation; 1 on a terminal, else 2.",
    )  # fmt: skip
    parser.add_argument("--list-recipes", action="store_true", help="List the recipes and exit.")
    parser.add_argument("--list-presets", action="store_true", help="List the presets and exit.")
    parser.add_argument(
        "--print-recipe", action="store_true", help="Print the whole recipe as YAML and exit."
    )
    add_recipe_options(parser, load_recipe("default"))
    return parser


def _evaluate_parser():
    parser = CommandParser(
        usage="%(prog)s RUN_OR_SAVEDMODEL ... [--ensemble] [--data NAME_OR_FOLDER] [--split SPLIT] [--out DIR] ...",
        description="Judges a trained embedder on any data: retrieval metrics and pictures.",
        epilog=_EVALUATE_EXAMPLES,
    )
    parser.add_argument(
        "RUN_OR_SAVEDMODEL", nargs="+", help="A run's folder, or an exported SavedModel; each of several is judged."
    )
    parser.add_argument(
        "--ensemble", action="store_true", help="Judge several as one: their embeddings are laid side by side."
    )
    parser.add_argument(
        "--data", metavar="NAME_OR_FOLDER",
        help="A data set of the registry or a folder of pictures; by default the run's own.",
    )  # fmt: skip
    parser.add_argument(
        "--options", type=dict, help="What the data set takes, as in --options.min_typefaces 20."
    )
    parser.add_argument(
        "--split", type=Literal["all", "train", "validation", "test"],
        help="Which classes; by default test for the run's own data, else all.",
    )  # fmt: skip
    parser.add_argument(
        "--validation_classes", type=float, help="Share of the validation classes; the run's, or 0.2."
    )
    parser.add_argument(
        "--test_classes", type=Union[float, Literal["published"]], help="Share of the test classes; the run's, or 0.3."
    )
    parser.add_argument("--fold", type=int, help="Part of the training classes that validates; the run's, or none.")
    parser.add_argument("--folds", type=int, help="How many such parts there are; the run's, or 4.")
    parser.add_argument("--split_seed", type=int, help="Shuffles the classes before; the run's, or none.")
    parser.add_argument(
        "--out",
        metavar="DIR",
        help="A folder that does not exist; by default a new one in evaluations/ of the run.",
    )
    parser.add_argument("--no-pictures", action="store_true", help="Only the metrics.")
    parser.add_argument(
        "--trust", action="store_true",
        help="Load a SavedModel even if it can reach files, processes or Python; only if you know who made it.",
    )  # fmt: skip
    parser.add_argument(
        "--search", type=Literal["exact", "faiss"],
        help="How the nearest pictures are found; faiss is approximate and tells its recall. The run's, or exact.",
    )  # fmt: skip
    return parser


@contextlib.contextmanager
def _console_log():
    """Shows what runs log; the callbacks' news are in the progress line and in the log file."""
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(logging.Formatter("%(message)s"))
    handler.addFilter(
        lambda record: record.name.startswith("tfdml.experiments") or record.levelno >= logging.WARNING
    )
    logger = logging.getLogger("tfdml")
    level = logger.level
    propagate = logger.propagate
    logger.setLevel(logging.INFO)
    logger.addHandler(handler)
    # TensorFlow gives the root logger a handler, which would show everything twice.
    logger.propagate = False
    try:
        yield
    finally:
        logger.propagate = propagate
        logger.removeHandler(handler)
        logger.setLevel(level)
