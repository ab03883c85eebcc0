"""Protocols: the runs of a recipe that together make one row of a table."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import logging
import pathlib
import shutil
from typing import Any, Literal, NamedTuple

import keras
import numpy as np
from tqdm import tqdm

from tfdml._utils.input_errors import InputError
from tfdml._utils.plain_files import write_json
from tfdml._utils.typed_values import replace
from tfdml._utils.types import PathLike
from tfdml.experiments.errors import RunFolderError
from tfdml.experiments.evaluation import ensemble_metrics
from tfdml.experiments.recipe import Recipe
from tfdml.experiments.recipe_files import load_recipe, recipe_hash
from tfdml.experiments.run_folder import (
    Entry,
    RunFolder,
    WorkFolder,
    check_is_free,
    read_embeddings,
    read_json,
    read_whole_recipe,
)
from tfdml.experiments.runner import check_same_recipe, result_of

_logger = logging.getLogger(__name__)

_FOLDS = {"fair": 4, "cross_validation": 10, "fixed_validation": 10}


class PlannedRun(NamedTuple):
    """One of the runs of a protocol.

    Attributes:
        name: str. Name of its folder.
        recipe: `Recipe` of a single run.
        fold: int. Part of the training classes (0-based) that validates. None for the test classes.
    """

    name: str
    recipe: Recipe
    fold: int | None


class ProtocolFolder(WorkFolder):
    """The paths in the folder of a protocol.

    Args:
        path: path. The folder.
    """

    runs = Entry("runs")  # a run folder per fold and repeat
    summary = Entry("summary.json")  # the result, after all runs have finished

    def entries(self) -> list[pathlib.Path]:
        # Runs may be on another disk.
        return [path for path in super().entries() if path != self.runs]

    @property
    def is_of_run(self) -> bool:
        """Whether it is the folder of a run, which has its environment next to its recipe."""
        return RunFolder(self.path).environment.exists()

    @classmethod
    def open(cls, path: PathLike) -> tuple[ProtocolFolder, Recipe]:
        """Open the folder of a protocol that has begun, and read its recipe.

        Raises:
            RunFolderError: If there is no such folder, or it does not contain a protocol.
        """
        folder = cls(path)
        if folder.recipe.is_file() and not folder.is_of_run:
            recipe = read_whole_recipe(folder.recipe)
            if recipe.protocol.name != "single":
                return folder, recipe
        raise RunFolderError(f"The folder is not a protocol. Received: {folder.path}. Expected: its recipe.yaml in it.")


@dataclasses.dataclass(frozen=True)
class ProtocolResult:
    """Result of a protocol.

    Attributes:
        folder: path. The protocol's folder.
        summary: dict. Content of `summary.json`: `recipe`, `recipe_hash`, `protocol`, `data`, `folds`, `repeats`,
            `evaluations`, and `metrics`: for the individual networks (`"separate"`) and, in the fair protocol, for the
            concatenated embeddings of all folds (`"ensemble"`), the `mean`, `deviation` and `best` of each test metric.
    """

    folder: pathlib.Path
    summary: dict[str, Any]


def is_protocol_folder(path: PathLike) -> bool:
    """Return whether a folder is that of a protocol, rather than of a run or something else."""
    folder = ProtocolFolder(path)
    if not folder.recipe.is_file() or folder.is_of_run:
        return False
    try:
        return load_recipe(folder.recipe.resolve()).protocol.name != "single"
    except ValueError:
        # The error for a damaged recipe is that of ProtocolFolder.open.
        return folder.runs.is_dir()


def plan(recipe: Recipe) -> list[PlannedRun]:
    """Return the runs of a recipe's protocol in order.

    Run `fold` of repetition `repeat` has the seed `seed + repeat * folds + fold`. The test classes are always those of
    the recipe:

    - fair: fold k of 4 validates on the k-th contiguous part of the training classes and trains on the others;
    - conventional: validates on the test classes and trains on all others;
    - cross_validation: as fair, with 10 parts of the training classes after shuffling them by the recipe's seed;
    - fixed_validation: one run, which validates on the last of 10 parts.

    Args:
        recipe: `Recipe` whose protocol is not `"single"`.

    Raises:
        ValueError: If the recipe is that of a single run.

    Example:
        >>> [run.name for run in plan(load_recipe("gap", {"protocol.name": "fair", "protocol.folds": 2}))]
        ['repeat0-fold0', 'repeat0-fold1']

    Reference:
        Musgrave, Belongie and Lim, "A metric learning reality check", ECCV 2020 (fair); Gürbüz, METU 2022, sections
        3.3.2.1 and 5.3.4.1; Psomas, "Metric learning: a deep dive", 2020 (cross-validation, fixed validation).
    """
    protocol = recipe.protocol
    if protocol.name == "single":
        raise ValueError("A single run has no plan. Received: protocol.name='single'. Expected: another protocol.")
    count, folds = 1, [None]
    if protocol.name != "conventional":
        count = protocol.folds or _FOLDS[protocol.name]
        folds = [count - 1] if protocol.name == "fixed_validation" else range(count)
    return [
        PlannedRun(
            f"repeat{repeat}" + ("" if fold is None else f"-fold{fold}"), _single(recipe, fold, count, repeat), fold
        )
        for repeat, fold in itertools.product(range(protocol.repeats), folds)
    ]


def _single(recipe, fold, count, repeat):
    of_data = {"data.validation_classes": "test"} if fold is None else {"data.folds": count}
    if recipe.protocol.name == "cross_validation" and recipe.data.split_seed is None:
        # Neighboring classes can be similar, so contiguous parts would differ in difficulty.
        of_data["data.split_seed"] = recipe.seed
    changes = {
        "seed": recipe.seed + repeat * count + (fold or 0),
        "protocol.name": "single", "protocol.folds": None, "protocol.repeats": 1,
        "data.fold": fold, **of_data,
        "evaluation.keep_embeddings": True,
    }  # fmt: skip
    return replace(recipe, changes)


def run_protocol(
    recipe: Recipe, out: PathLike | None = None, *, verbose: Literal[0, 1, 2] | None = None
) -> ProtocolResult:
    """Do all runs of a recipe's protocol and summarize them. `resume_protocol` continues after an interruption.

    Args:
        recipe: `Recipe` whose protocol is not `"single"`.
        out: path. Folder to create, which must not exist. Default: `runs/NAME-DATE-TIME`.
        verbose: As for `tfdml.experiments.train`.

    Returns:
        A `ProtocolResult`.

    Raises:
        ValueError: If the recipe or its data cannot be used (nothing is written then), or the folder exists.
        NonFiniteLossError: If the loss of a run becomes NaN or infinite.

    Example:
        >>> result = run_protocol(load_recipe("fair/glyphs/c2"), "runs/glyphs")  # doctest: +SKIP
        >>> result.summary["metrics"]["ensemble"]["map_at_r"]["mean"]  # doctest: +SKIP
    """
    check_is_free(out)
    plan(recipe)
    folder = ProtocolFolder.create(recipe, out)
    try:
        return _carry_out(folder, recipe, verbose)
    except InputError:
        # Recipe or data cannot be used if the first run has not begun.
        if not folder.runs.exists():
            shutil.rmtree(folder.path)
        raise


def resume_protocol(path: PathLike, *, verbose: Literal[0, 1, 2] | None = None) -> ProtocolResult:
    """Continue an interrupted protocol, or read the result of a finished one.

    Args:
        path: path. The protocol's folder.
        verbose: As for `tfdml.experiments.train`.

    Raises:
        ValueError: If the folder is not a protocol's, and as for `run_protocol`.
        NonFiniteLossError: If the loss of a run becomes NaN or infinite.
    """
    folder, recipe = ProtocolFolder.open(path)
    if folder.summary.exists():
        # A damaged summary is written again.
        with contextlib.suppress(RunFolderError):
            return ProtocolResult(folder.path, read_json(folder.summary))
    return _carry_out(folder, recipe, verbose)


def protocol_result_of(
    recipe: Recipe, folder: PathLike, verbose: Literal[0, 1, 2] | None = None
) -> ProtocolResult:
    """Run, resume, or read the result of a protocol, depending on what is in the folder.

    Raises:
        RunFolderError: If the folder contains something else, or runs of another recipe.
    """
    path = pathlib.Path(folder).expanduser()
    if not path.exists():
        return run_protocol(recipe, path, verbose=verbose)
    check_same_recipe(path, ProtocolFolder.open(path)[1], recipe)
    return resume_protocol(path, verbose=verbose)


def _carry_out(folder, recipe, verbose):
    runs = plan(recipe)
    with folder.lock():
        for number, run in enumerate(runs, start=1):
            path = folder.runs / run.name
            if not RunFolder(path).is_finished:
                _logger.info("Run %d of %d: %s", number, len(runs), run.name)
            if path.exists() and not RunFolder(path).has_begun:
                # It was killed before it could be resumed.
                shutil.rmtree(path)
            result_of(run.recipe, path, verbose=verbose)
            # Keras keeps the graphs of networks that are no longer used.
            keras.backend.clear_session()
        write_json(folder.summary, summarize(recipe, folder))
    return ProtocolResult(folder.path, read_json(folder.summary))


def summarize(recipe: Recipe, folder: ProtocolFolder) -> dict[str, Any]:
    """Summarize the finished runs of a protocol.

    In the fair protocol with r repeats of f folds there are $r^f$ ways to choose one network of each fold. Each way is
    an evaluation: of the mean of its networks, and of their concatenated embeddings. In the other protocols each
    network is an evaluation. Means and (population) standard deviations are over the evaluations.

    Args:
        recipe: `Recipe`.
        folder: `ProtocolFolder` whose runs have all finished.

    Returns:
        The content of `ProtocolResult.summary`.
    """
    runs = plan(recipe)
    folds = sorted({run.fold for run in runs if run.fold is not None})
    metrics = {run.name: _floats(read_json(RunFolder(folder.runs / run.name).test_metrics)["test"]) for run in runs}
    if recipe.protocol.name == "fair":
        ways = list(itertools.product(*([run.name for run in runs if run.fold == fold] for fold in folds)))
        names = metrics[runs[0].name]
        separate = [{name: float(np.mean([metrics[run][name] for run in way])) for name in names} for way in ways]
        evaluations = {"separate": separate, "ensemble": _ensembles(folder, recipe, ways)}
    else:
        evaluations = {"separate": list(metrics.values())}
    return {
        "recipe": recipe.name,
        "recipe_hash": recipe_hash(recipe),
        "protocol": recipe.protocol.name,
        "data": recipe.data.name,
        "folds": len(folds) or None,
        "repeats": recipe.protocol.repeats,
        "evaluations": len(evaluations["separate"]),
        "monitors_test_classes": recipe.protocol.name == "conventional",
        "metrics": {
            kind: {name: _statistics([one[name] for one in of_kind]) for name in of_kind[0]}
            for kind, of_kind in evaluations.items()
        },
        "runs": metrics,
    }


def _ensembles(folder, recipe, ways):
    """Retrieval metrics of each way's concatenated embeddings."""
    embedded = {name: read_embeddings(RunFolder(folder.runs / name).test_embeddings) for way in ways for name in way}
    _, labels, is_query = embedded[ways[0][0]]
    for name, (_, others, _) in embedded.items():
        if not np.array_equal(others, labels):
            raise RunFolderError(
                f"The runs of a protocol must have the same test images. Received: {folder.runs / name} with others "
                f"than {folder.runs / ways[0][0]}."
            )
    config, results = recipe.evaluation, []
    for way in tqdm(ways, desc="ensembles", disable=None if len(ways) > 1 else True):
        embeddings = [embedded[name][0] for name in way]
        results.append(_floats(ensemble_metrics(embeddings, labels, is_query, config.recall_at, config.search)))
    return results


def _floats(metrics):
    """The metrics without counts of queries."""
    return {name: value for name, value in metrics.items() if isinstance(value, float)}


def _statistics(values):
    """Mean, standard deviation (None for one value) and best of a metric."""
    deviation = float(np.std(values)) if len(values) > 1 else None
    return {"mean": float(np.mean(values)), "deviation": deviation, "best": float(np.max(values))}
