"""Protocols: the runs of a recipe that together make one row of a table."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import logging
import pathlib
import shutil
from typing import NamedTuple

import keras
import numpy as np
from tqdm import tqdm

from tfdml._utils.plain_files import write_json
from tfdml.experiments.errors import InputError, RunFolderError
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
        name: Of its folder.
        recipe: What it does, a recipe of a single run.
        fold: The part of the training classes that it validates on, from 0; None for the test classes.
    """

    name: str
    recipe: Recipe
    fold: int | None


class ProtocolFolder(WorkFolder):
    """Paths in the folder of a protocol.

    Args:
        path: The folder.
    """

    runs = Entry("runs")  # a run folder for each fold and repeat
    summary = Entry("summary.json")  # the result, once all runs have finished

    def entries(self):
        # Runs may lie on another disk.
        return [path for path in super().entries() if path != self.runs]

    @property
    def is_of_run(self):
        """Whether this is the folder of a run, which has its environment next to its recipe."""
        return RunFolder(self.path).environment.exists()

    @classmethod
    def open(cls, path):
        """The folder of a protocol that has begun, with its recipe.

        Returns:
            A `ProtocolFolder` and a `Recipe`.

        Raises:
            RunFolderError: If there is no such folder, or it is no protocol's.
        """
        folder = cls(path)
        if folder.recipe.is_file() and not folder.is_of_run:
            recipe = read_whole_recipe(folder.recipe)
            if recipe.protocol.name != "single":
                return folder, recipe
        raise RunFolderError(f"{folder.path} is no folder of a protocol: it lacks the recipe.yaml of one.")


def is_protocol_folder(path):
    """Whether a folder is that of a protocol, rather than of a run or something else."""
    folder = ProtocolFolder(path)
    if not folder.recipe.is_file() or folder.is_of_run:
        return False
    try:
        return load_recipe(folder.recipe.resolve()).protocol.name != "single"
    except ValueError:
        # A damaged one, which ProtocolFolder.open names.
        return folder.runs.is_dir()


def plan(recipe: Recipe):
    """The runs of a recipe's protocol, in the order in which they are done.

    Run `fold` of repetition `repeat` has the seed `seed + repeat * folds + fold`. Test classes are always those of the
    recipe:

    - fair: fold k of 4 validates on the k-th contiguous part of the training classes and trains on the others;
    - conventional: validates on the test classes and trains on all others;
    - cross_validation: as fair, with 10 parts of the training classes in an order shuffled by the recipe's seed;
    - fixed_validation: one run, which validates on the last of 10 parts.

    Args:
        recipe: A recipe whose protocol is not `"single"`.

    Returns:
        A list of `PlannedRun`.

    Raises:
        ValueError: If the recipe is of a single run.

    Reference:
        Musgrave, Belongie and Lim, "A metric learning reality check", ECCV 2020 (fair); Gürbüz, METU 2022, sections
        3.3.2.1 and 5.3.4.1; Psomas, "Metric learning: a deep dive", 2020 (cross-validation, fixed validation).
    """
    protocol = recipe.protocol
    if protocol.name == "single":
        raise ValueError("A single run has no plan. Received: protocol.name='single'.")
    if protocol.name == "conventional":
        # Seeds count as if there were one fold.
        count, folds = 1, [None]
    else:
        count = protocol.folds or _FOLDS[protocol.name]
        folds = [count - 1] if protocol.name == "fixed_validation" else range(count)
    runs = []
    for repeat, fold in itertools.product(range(protocol.repeats), folds):
        name = f"repeat{repeat}" + ("" if fold is None else f"-fold{fold}")
        runs.append(PlannedRun(name, _single(recipe, fold, count, repeat), fold))
    return runs


def _single(recipe, fold, count, repeat):
    changes = {"fold": fold}
    if fold is None:
        changes["validation_classes"] = "test"
    else:
        changes["folds"] = count
    if recipe.protocol.name == "cross_validation" and recipe.data.split_seed is None:
        # Neighbouring classes can be alike, so that contiguous parts would be of unlike difficulty.
        changes["split_seed"] = recipe.seed
    return dataclasses.replace(
        recipe,
        seed=recipe.seed + repeat * count + (fold or 0),
        protocol=dataclasses.replace(recipe.protocol, name="single", folds=None, repeats=1),
        data=dataclasses.replace(recipe.data, **changes),
        evaluation=dataclasses.replace(recipe.evaluation, keep_embeddings=True),
    )


def run_protocol(recipe, out=None, *, verbose=None):
    """Does all runs of a recipe's protocol and sums them up.

    A run that has finished is not repeated, and one that was interrupted goes on: `resume_protocol`.

    Args:
        recipe: A `Recipe` whose protocol is not `"single"`.
        out: The folder, which must not exist; by default `runs/NAME-DATE-TIME`.
        verbose: As for `tfdml.experiments.train`.

    Returns:
        A `ProtocolResult`.

    Raises:
        ValueError: If the recipe or its data cannot be used (nothing is written then), or the folder exists.
        NonFiniteLossError: If the loss of a run becomes NaN or infinite.
    """
    check_is_free(out)
    plan(recipe)
    folder = ProtocolFolder.create(recipe, out)
    try:
        return _carry_out(folder, recipe, verbose)
    except InputError:
        # The first run has not begun: recipe or data cannot be used.
        if not folder.runs.exists():
            shutil.rmtree(folder.path)
        raise


def resume_protocol(path, *, verbose=None):
    """Goes on with a protocol that was interrupted; of a finished one it gives the result.

    Arguments and errors are those of `run_protocol`, but for the folder, which must be a protocol's.
    """
    folder, recipe = ProtocolFolder.open(path)
    if folder.summary.exists():
        # A damaged one is made again.
        with contextlib.suppress(RunFolderError):
            return ProtocolResult(folder.path, read_json(folder.summary))
    return _carry_out(folder, recipe, verbose)


def protocol_result_of(recipe, folder, verbose=None):
    """The result of a protocol: taken from its folder if it is there, else carried out, from where it stopped.

    A folder that holds something else, or runs of another recipe, is a RunFolderError.
    """
    if not pathlib.Path(folder).expanduser().exists():
        return run_protocol(recipe, folder, verbose=verbose)
    check_same_recipe(folder, ProtocolFolder.open(folder)[1], recipe)
    return resume_protocol(folder, verbose=verbose)


@dataclasses.dataclass(frozen=True)
class ProtocolResult:
    """What a protocol gives.

    Attributes:
        folder: Where its files are.
        summary: The content of `summary.json`: `recipe`, `recipe_hash`, `protocol`, `data`, `folds`, `repeats`,
            `evaluations`, and `metrics` of the networks by themselves, `"separate"`, and in the fair protocol of all
            folds side by side, `"ensemble"`: for each metric of the test classes `mean`, `deviation` and `best`.
    """

    folder: pathlib.Path
    summary: dict


def _carry_out(folder, recipe, verbose):
    runs = plan(recipe)
    with folder.lock():
        for number, run in enumerate(runs, start=1):
            path = folder.runs / run.name
            if not RunFolder(path).is_finished:
                _logger.info("Run %d of %d: %s", number, len(runs), run.name)
            if path.exists() and not RunFolder(path).has_begun:
                # Stopped before it was a run: there is nothing in it to go on from.
                shutil.rmtree(path)
            result_of(run.recipe, path, verbose=verbose)
            # Keras keeps graphs of networks that nobody uses any more.
            keras.backend.clear_session()
        write_json(folder.summary, summarize(recipe, folder))
    return ProtocolResult(folder.path, read_json(folder.summary))


def summarize(recipe, folder):
    """Sums up the finished runs of a protocol.

    In the fair protocol with r repeats of f folds there are $r^f$ ways to take one network of each fold. Each way is an
    evaluation: of the mean of its networks by themselves, and of their embeddings side by side. In the other protocols
    each network is an evaluation. Means and deviations (of a population) are over the evaluations.

    Args:
        recipe: The recipe.
        folder: A `ProtocolFolder` whose runs have all finished.

    Returns:
        The content of `ProtocolResult.summary`.
    """
    runs = plan(recipe)
    folds = sorted({run.fold for run in runs if run.fold is not None})
    metrics = {run.name: _floats(read_json(RunFolder(folder.runs / run.name).test_metrics)["test"]) for run in runs}
    if recipe.protocol.name == "fair":
        # All ways to take one run of each fold.
        of_folds = [[run.name for run in runs if run.fold == fold] for fold in folds]
        ways = list(itertools.product(*of_folds))
        names = metrics[runs[0].name]
        separate = [{name: float(np.mean([metrics[run][name] for run in way])) for name in names} for way in ways]
        results = {"separate": _statistics(separate), "ensemble": _statistics(_ensembles(folder, recipe, ways))}
    else:
        results = {"separate": _statistics(list(metrics.values()))}
    return {
        "recipe": recipe.name,
        "recipe_hash": recipe_hash(recipe),
        "protocol": recipe.protocol.name,
        "data": recipe.data.name,
        "folds": len(folds) or None,
        "repeats": recipe.protocol.repeats,
        "evaluations": len(ways) if recipe.protocol.name == "fair" else len(runs),
        "monitors_test_classes": recipe.protocol.name == "conventional",
        "metrics": results,
        "runs": metrics,
    }


def _ensembles(folder, recipe, ways):
    """The retrieval metrics of each way's embeddings side by side."""
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
    """Counts of queries are no results."""
    return {name: value for name, value in metrics.items() if isinstance(value, float)}


def _statistics(evaluations):
    """Mean, deviation and best of each metric over the evaluations; no deviation of a single one."""
    return {name: _statistics_of([one[name] for one in evaluations]) for name in evaluations[0]}


def _statistics_of(values):
    deviation = float(np.std(values)) if len(values) > 1 else None
    return {"mean": float(np.mean(values)), "deviation": deviation, "best": float(np.max(values))}
