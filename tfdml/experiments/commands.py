"""The two commands, `tfdml-train` and `tfdml-evaluate`."""

from __future__ import annotations

import contextlib
import json
import logging
import sys
from typing import Literal

from tfdml.experiments.errors import InputError
from tfdml.experiments.evaluation import evaluate
from tfdml.experiments.parsing import CommandParser, add_recipe_options
from tfdml.experiments.recipe_files import dump_recipe, load_preset, load_recipe, preset_names, recipe_names
from tfdml.experiments.run_folder import RunFolder
from tfdml.experiments.runner import NonFiniteLossError, resume, train

_TRAIN_EXAMPLES = """
examples:
  %(prog)s                                         the default recipe
  %(prog)s gap --training.max_validations 10       a recipe with a change
  %(prog)s --recipe mine.yaml --out runs/mine      your own, in a folder of your choice
  %(prog)s --resume runs/mine                      goes on after an interruption
  %(prog)s gsp --print-recipe > mine.yaml          a recipe to change
  %(prog)s gap --preset thesis/c2-cub              published hyperparameters over a recipe; repeat --preset for more

Values are YAML: 1e-3, true, null, [1,2,4]. The defaults shown are those of the default recipe."""

_EVALUATE_EXAMPLES = """
examples:
  %(prog)s runs/mine                                    the run's own test classes
  %(prog)s runs/mine --split validation
  %(prog)s runs/mine/saved_model --data digits          any data set, all classes
  %(prog)s runs/mine --data PICTURES                    a folder with a sub-folder for each class
  %(prog)s runs/mine --data glyphs --options.min_typefaces 20"""


def train_main(argv=None):
    """Trains from the command line.

    Args:
        argv: The arguments; by default those of the program.

    Returns:
        The exit code: 0, or 1 if the loss became no number, or 130 after Ctrl-C. Wrong arguments and input
        exit with 2.
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
    with _told_input_errors(parser):
        if list_recipes:
            for known in recipe_names():
                print(f"{known:14} {load_recipe(known).description}")
            return 0
        if list_presets:
            for known in preset_names():
                print(f"{known:32} {_in_one_line(load_preset(known))}")
            return 0
        if resumed is not None:
            if positional or name or out or overrides or presets or print_recipe:
                parser.refuse(
                    "--resume takes everything from the run: no recipe, --out, presets or changes go with it."
                )
            return _run(lambda: _resume(resumed, verbose))
        if positional and name:
            parser.refuse(f"Two recipes. Received: {positional!r} and --recipe {name}.")
        recipe = load_recipe(positional or name or "default", overrides, presets)
        if print_recipe:
            print(dump_recipe(recipe), end="")
            return 0
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
    path, options = given.pop("RUN_OR_SAVEDMODEL"), given.pop("options", {})
    pictures = not given.pop("no_pictures", False)
    data, split, out = (given.pop(name, None) for name in ("data", "split", "out"))
    with _told_input_errors(parser), _console_log():
        done = evaluate(path, data, options, split=split, splitting=given, out=out, pictures=pictures)
    print(f"{done.data}, {done.split} classes: {done.images} pictures of {done.classes} classes")
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
    except KeyboardInterrupt:
        print("\nInterrupted. Go on with --resume and the run's folder.", file=sys.stderr)
        return 130
    print(_summary(result))
    return 0


def _resume(folder, verbose):
    if RunFolder.open(folder).is_finished:
        print("This run is finished; there is nothing to resume.")
    return resume(folder, verbose=verbose)


def _summary(result):
    training, test, untrained = result.training, result.test, result.untrained
    projections = f", {training['projections']} projections" if "projections" in training else ""
    lines = [
        f"Trained for {training['steps']} steps in {training['seconds']:.0f} s{projections}; "
        f"best validation MAP@R {result.validation['map_at_r']:.4f} "
        f"after validation {result.validation['epoch']}.",
        "Test classes        MAP@R     P@1",
        f"  untrained        {untrained['map_at_r']:6.4f}  {untrained['precision_at_1']:6.4f}",
        f"  trained          {test['map_at_r']:6.4f}  {test['precision_at_1']:6.4f}",
        f"Files: {result.folder}",
        f"  metrics {result.folder / 'test_metrics.json'}, SavedModel {result.folder / 'saved_model'}, "
        f"pictures {result.folder / 'pictures'}",
    ]
    return "\n".join(lines)


def _in_one_line(mapping):
    """A preset as YAML without line breaks."""
    return " ".join(f"{key}: {json.dumps(value)}".replace('"', "") for key, value in mapping.items())


def _train_parser():
    parser = CommandParser(
        usage="%(prog)s [RECIPE] [--preset PRESET ...] [--KEY VALUE ...] [--out DIR] | --resume RUN",
        description="Trains an embedder by a recipe and leaves a run folder with everything about it.",
        epilog=_TRAIN_EXAMPLES,
    )
    parser.add_argument("RECIPE", nargs="?", help=f"One of {', '.join(recipe_names())}, or a YAML file.")
    parser.add_argument("--recipe", metavar="RECIPE", help="The same as an option.")
    parser.add_argument(
        "--preset", metavar="PRESET", action="append", help="Part of a recipe that goes over it; can be repeated."
    )
    parser.add_argument(
        "--out", metavar="DIR", help="The run's folder, which must not exist; runs/NAME-DATE-TIME."
    )
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
        usage="%(prog)s RUN_OR_SAVEDMODEL [--data NAME_OR_FOLDER] [--split SPLIT] [--out DIR] ...",
        description="Judges a trained embedder on any data: retrieval metrics and pictures.",
        epilog=_EVALUATE_EXAMPLES,
    )
    parser.add_argument("RUN_OR_SAVEDMODEL", help="A run's folder, or an exported SavedModel.")
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
    parser.add_argument("--test_classes", type=float, help="Share of the test classes; the run's, or 0.3.")
    parser.add_argument("--split_seed", type=int, help="Shuffles the classes before; the run's, or none.")
    parser.add_argument(
        "--out",
        metavar="DIR",
        help="A folder that does not exist; by default a new one in evaluations/ of the run.",
    )
    parser.add_argument("--no-pictures", action="store_true", help="Only the metrics.")
    return parser


@contextlib.contextmanager
def _told_input_errors(parser):
    """Tells what is wrong with the input, without a traceback."""
    try:
        yield
    except InputError as error:
        parser.refuse(str(error))


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
