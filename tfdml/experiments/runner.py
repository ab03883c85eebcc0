"""Training runs from start to end, and from an interruption to the end."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import math
import pathlib
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import keras
import tensorflow as tf

from tfdml import data
from tfdml._utils.arguments import check_whole_number
from tfdml._utils.environment import environment
from tfdml._utils.files import reason_of_machine, whole_path
from tfdml._utils.input_errors import InputError, input_errors
from tfdml._utils.log_file import log_file
from tfdml._utils.plain_files import write_json, write_text
from tfdml._utils.typed_values import replace
from tfdml._utils.types import PathLike
from tfdml._utils.variables import array_of
from tfdml.experiments import builders
from tfdml.experiments.errors import RunFolderError
from tfdml.experiments.evaluation import evaluate_embedder
from tfdml.experiments.figures import draw_evaluation, draw_training
from tfdml.experiments.progress import ProgressBar, ProgressLines
from tfdml.experiments.recipe import Recipe
from tfdml.experiments.recipe_files import dump_recipe, load_recipe
from tfdml.experiments.run_callbacks import RunCallbacks, open_backup
from tfdml.experiments.run_folder import RunFolder, check_is_free, read_json, write_embeddings
from tfdml.experiments.strategies import (
    check_recipe,
    distribute,
    leave_folder,
    lost_workers,
    make_workers,
    share_folder,
    wait_for_all,
    worker_folder,
    worker_of_environment,
)
from tfdml.export import export_saved_model
from tfdml.models import Workers, inference_function
from tfdml.ops import MAX_PIXELS

_logger = logging.getLogger(__name__)

Strategy = Literal["single", "mirrored", "multi_worker"]


class NonFiniteLossError(ArithmeticError):
    """A training whose loss became NaN or infinite. Its best weights so far are kept."""


@dataclasses.dataclass(frozen=True)
class TrainingResult:
    """Result of a finished run.

    Attributes:
        folder: path. The run's folder.
        test: dict. Retrieval metrics of the best weights on the test classes.
        untrained: dict. The same for the network before training.
        validation: dict. Best value of the monitored metric, such as `map_at_r`, on the validation classes, and the
            `epoch` (1-based) that reached it: 0 if no validation was better than the untrained network, whose weights
            are then kept.
        training: dict. `epochs`, `steps`, `seconds`, and under CCP `projections`.
        embedder: Keras model with the best weights. None if the run was already finished.
    """

    folder: pathlib.Path
    test: dict[str, Any]
    untrained: dict[str, Any]
    validation: dict[str, Any]
    training: dict[str, Any]
    embedder: Any = None


def train(
    recipe: Recipe | PathLike = "default",
    out: PathLike | None = None,
    *,
    overrides: Mapping[str, Any] | None = None,
    presets: Sequence[str] = (),
    extra_callbacks: Sequence[keras.callbacks.Callback] = (),
    verbose: Literal[0, 1, 2] | None = None,
) -> TrainingResult:
    """Train an embedder by a recipe and write a run folder.

    Args:
        recipe: `Recipe`, name of a recipe, or path of its file. Default: `"default"`.
        out: path. Folder to create, which must not exist. Required for several workers, which share it. Default:
            `runs/NAME-DATE-TIME`.
        overrides: mapping. Changes of the recipe, as for `load_recipe`.
        presets: sequence of str. Presets merged into the recipe, as for `load_recipe`.
        extra_callbacks: sequence of Keras callbacks, called after those of the run.
        verbose: 0 is silent, 1 a progress bar and one line per validation, 2 only the lines. Default: 1 on a terminal,
            else 2.

    Returns:
        A `TrainingResult`.

    Raises:
        ValueError: If the recipe or its data cannot be used (nothing is written then), or the folder exists.
        NonFiniteLossError: If the loss becomes NaN or infinite.
        WorkerLostError: If another worker dies.

    Example:
        >>> result = train("digits-quick", "runs/digits", overrides={"seed": 1})  # doctest: +SKIP
        >>> result.test["map_at_r"]  # doctest: +SKIP
    """
    if not isinstance(recipe, Recipe):
        recipe = load_recipe(recipe, overrides, presets)
    elif overrides or presets:
        raise ValueError("Overrides and presets need a recipe's name. Received: a Recipe with overrides or presets.")
    is_shared = recipe.training.strategy == "multi_worker"
    is_first = not is_shared or worker_of_environment() == 0
    if is_shared and out is None:
        raise InputError(
            "Several workers need the name of the run's folder. Received: no out (--out). Expected: one folder on "
            "a file system that all workers share. Pass the same --out to each."
        )
    if is_first:
        check_is_free(out)
    workers = make_workers(recipe.training.strategy)
    check_recipe(recipe, workers)
    result = _Run(recipe, workers, extra_callbacks, verbose).carry_out(lambda recipe: _new_folder(recipe, out, workers))
    leave_folder(out, workers)
    return result


@contextlib.contextmanager
def _new_folder(recipe: Recipe, path: Any, workers: Workers) -> Iterator[RunFolder]:
    folder = RunFolder.create(recipe, path) if workers.is_chief else None
    with lost_workers(workers, path):
        share_folder(path, (), workers)
    if folder is None:
        folder = RunFolder.create(recipe, worker_folder(path, workers))
    with _stopped_in(folder.path), folder.lock():
        yield folder


def resume(
    path: PathLike,
    *,
    strategy: Strategy | None = None,
    max_validations: int | None = None,
    extra_callbacks: Sequence[keras.callbacks.Callback] = (),
    verbose: Literal[0, 1, 2] | None = None,
) -> TrainingResult:
    """Continue an interrupted run after its last complete epoch; it ends as it would have without the interruption.

    If the training is complete, only missing or damaged results are computed. A finished run is not changed.

    Args:
        path: path. The run's folder, which several workers share.
        strategy: Devices, as `training.strategy` of a recipe. Required for several workers. Default: that of the run.
        max_validations: int. Other value of `training.max_validations`. The run ends as if it had started with it; a
            finished run continues. Default: that of the run.
        extra_callbacks: As for `train`.
        verbose: As for `train`.

    Returns:
        A `TrainingResult`.

    Raises:
        ValueError: If the folder is not a run's, another process writes to it, its recipe is incomplete, the run ended
            with a non-finite loss, or it has done more than `max_validations` validations.
        NonFiniteLossError: If the loss becomes NaN or infinite.
        WorkerLostError: If another worker dies.

    Example:
        >>> resume("runs/digits", max_validations=12)  # doctest: +SKIP
    """
    run = RunFolder(path)
    if strategy == "multi_worker":
        if worker_of_environment() == 0:
            RunFolder.open(path)
        workers = make_workers(strategy)
        with lost_workers(workers, path):
            share_folder(run.path, [file.name for file in run.needed_to_resume], workers)
        folder = RunFolder.open(worker_folder(run.path, workers))
        result = _resume(folder, workers, strategy, max_validations, extra_callbacks, verbose)
        leave_folder(run.path, workers)
        return dataclasses.replace(result, folder=run.path)
    folder = RunFolder.open(path)
    began_with = folder.load_recipe().training.strategy
    is_over = folder.is_finished and max_validations is None
    if strategy is None and began_with == "multi_worker" and not is_over:
        raise RunFolderError(
            f"The run began with several workers. Received: {folder.path} and no strategy. Expected: "
            "strategy='multi_worker' (--strategy multi_worker) in each of them, or another strategy."
        )
    workers = make_workers(strategy or ("single" if is_over else began_with))
    return _resume(folder, workers, strategy or began_with, max_validations, extra_callbacks, verbose)


def _resume(folder, workers, strategy, max_validations, extra_callbacks, verbose):
    with _stopped_in(folder.path):
        if folder.is_finished and max_validations is None and not folder.damaged_results():
            return _read_result(folder)
        with folder.lock():
            recipe = folder.load_recipe()
            if folder.failure.exists():
                raise RunFolderError(
                    f"The run cannot be resumed: {read_json(folder.failure)['message']} Received: {folder.path}. "
                    "Start a new run, for example with a smaller optimizer.learning_rate."
                )
            _check_keras(folder)
            if not folder.read_environment():
                _logger.warning("%s is damaged. Writing it again with the current versions.", folder.environment)
                folder.prepare(recipe)
            for path in folder.damaged_results():
                _logger.warning("%s is damaged. Computing it again.", path)
                shutil.rmtree(path.parent) if path.parent == folder.saved_model else path.unlink()
            if max_validations is not None:
                recipe = _prolong(folder, recipe, max_validations)
            recipe = replace(recipe, {"training.strategy": strategy})
            check_recipe(recipe, workers)
            run = _Run(recipe, workers, extra_callbacks, verbose)
            return run.carry_out(lambda recipe: contextlib.nullcontext(folder))


def _check_keras(folder):
    """Raise a RunFolderError if the training began with another major version of Keras."""
    then, now = folder.read_environment().get("packages", {}).get("keras"), keras.__version__
    if folder.state.exists() and then and then.split(".")[0] != now.split(".")[0]:
        raise RunFolderError(
            f"The training began with Keras {then}, and Keras {now} cannot read the state of its optimizer. "
            f"Received: {folder.path}. Expected: Keras {then.split('.')[0]}. Resume it there; tfdml-evaluate accepts "
            "the run here too."
        )


def _prolong(folder, recipe, max_validations):
    """Change the number of validations and remove the results that depend on it."""
    with input_errors():
        wanted = check_whole_number("max_validations", max_validations, minimum=1)
    if recipe.optimizer.schedule != "constant" and wanted != recipe.training.max_validations:
        raise RunFolderError(
            "The learning rate is scheduled over all training steps, so a longer run has other weights from the first "
            f"step on. Received: training.max_validations={wanted} with optimizer.schedule="
            f"{recipe.optimizer.schedule!r}. Expected: {recipe.training.max_validations}, or a new run."
        )
    done = open_backup(folder).initial_epoch
    if wanted < done:
        raise RunFolderError(
            f"The run has done more validations. Received: training.max_validations={wanted}. "
            f"Expected: at least {done}."
        )
    if wanted == recipe.training.max_validations:
        return recipe
    prolonged = replace(recipe, {"training.max_validations": wanted})
    # The file that marks the run as finished comes first, so that a kill leaves a run that can be resumed.
    for path in (folder.test_metrics, folder.embedder, folder.test_embeddings):
        path.unlink(missing_ok=True)
    if folder.saved_model.exists():
        shutil.rmtree(folder.saved_model)
    write_text(folder.recipe, dump_recipe(prolonged))
    return prolonged


@contextlib.contextmanager
def _stopped_in(path: pathlib.Path) -> Iterator[None]:
    """Re-raise errors of the machine, such as a full disk, in one line that names the folder."""
    try:
        yield
    except KeyboardInterrupt as error:
        error.folder = path  # type: ignore[attr-defined]  # For the command.
        raise
    except RunFolderError:
        raise
    except (OSError, RuntimeError, tf.errors.OpError) as error:
        reason = reason_of_machine(error)
        if reason is None:
            raise
        raise RunFolderError(
            f"The run stopped: {reason}. Received: {path}. What the last validation saved is there: fix the cause, "
            f"then continue with --resume {path}."
        ) from error


def result_of(
    recipe: Recipe,
    folder: PathLike,
    verbose: Literal[0, 1, 2] | None = 0,
    extra_callbacks: Sequence[keras.callbacks.Callback] = (),
) -> TrainingResult:
    """Train, resume, or read the result of a run, depending on what is in the folder. Arguments are as for `train`.

    Raises:
        RunFolderError: If the folder has a run of another recipe.
    """
    folder = pathlib.Path(folder).expanduser()
    if not folder.exists():
        return train(recipe, folder, verbose=verbose, extra_callbacks=extra_callbacks)
    found = RunFolder.open(folder).load_recipe()
    check_same_recipe(folder, found, builders.fill_from(recipe, found))
    return resume(folder, verbose=verbose, extra_callbacks=extra_callbacks)


def check_same_recipe(folder: pathlib.Path, found: Recipe, wanted: Recipe) -> None:
    """Raise a RunFolderError if the recipe found in a folder is not the wanted one."""
    # Compared as written: a tuple in an option, for example, is a list in a file. Descriptions can be edited.
    if len({dump_recipe(replace(recipe, {"description": ""})) for recipe in (found, wanted)}) > 1:
        raise RunFolderError(
            f"The folder has a run of another recipe. Received: {folder}. Choose another --out, or remove the folder."
        )


def _read_result(folder):
    content = read_json(folder.test_metrics)
    fields = {field.name for field in dataclasses.fields(TrainingResult)} - {"folder", "embedder"}
    if not fields <= set(content):
        raise RunFolderError(f"A file of the run was changed. Received: {folder.test_metrics}.")
    return TrainingResult(folder=folder.path, **{name: content[name] for name in fields})


class _Run:
    """One run, new or resumed. `carry_out` calls the steps in order."""

    folder: RunFolder
    datasets: builders.ExperimentData
    embedder: Any
    model: Any
    callbacks: RunCallbacks

    def __init__(self, recipe, workers, extra_callbacks, verbose):
        self.recipe, self.workers, self.extra_callbacks = recipe, workers, list(extra_callbacks)
        verbose = (1 if sys.stdout.isatty() else 2) if verbose is None else verbose
        self.verbose = verbose if workers.is_chief else 0

    def carry_out(self, open_folder):
        """Train and evaluate in the folder that `open_folder` opens for the complete recipe."""
        with builders.precision_policy(self.recipe.training.precision):
            # Errors of recipe or data appear here, before there is a folder.
            with input_errors():
                self.prepare()
            with open_folder(self.recipe) as self.folder, log_file(self.folder.log):
                if self.workers.is_chief:
                    _logger.info("Run folder: %s", self.folder.path)
                self.warn_of_changes()
                with lost_workers(self.workers, self.run_folder.path):
                    untrained = self.evaluate_untrained()
                    with input_errors():
                        self.restore()
                    self.fit()
                    return self.finish(untrained)

    def prepare(self):
        """Load the data and create embedder and model."""
        builders.dry_build(self.recipe)
        keras.utils.set_random_seed(self.recipe.seed)
        self.datasets = builders.load_data(self.recipe)
        builders.check_training_classes(self.recipe, self.datasets)
        self.recipe = builders.complete_recipe(self.recipe, self.datasets)
        self.embedder = builders.make_embedder(self.recipe, self.datasets.preprocessing)
        builders.start_embedder(self.recipe, self.embedder, self.datasets)
        if self.workers.is_single:
            self.model = builders.make_model(self.recipe, self.embedder, self.datasets.train)
            return
        # The replicas start from the same weights and random numbers as one device.
        weights = self.embedder.get_weights()
        keras.utils.set_random_seed(self.recipe.seed)
        with self.workers.strategy.scope():
            self.embedder = builders.make_embedder(self.recipe, self.datasets.preprocessing)
            self.embedder.set_weights(weights)
            self.model = builders.make_model(self.recipe, self.embedder, self.datasets.train)

    @property
    def run_folder(self):
        """The run's folder, which contains those of all workers but the first."""
        return self.folder if self.workers.is_chief else RunFolder(self.folder.path.parent)

    @property
    def part(self):
        """This worker's share of each batch, or None."""
        return None if self.workers.count == 1 else (self.workers.index, self.workers.count)

    def warn_of_changes(self):
        then, now = self.folder.read_environment(), environment(self.recipe.seed)

        def changed(*keys):
            return [key for key in keys if then.get(key, now[key]) != now[key]]

        versions = changed("tfdml", "python", "packages", "machine")
        if versions:
            _logger.warning(
                "The run began with other versions (%s); it may not end exactly as it would have.", ", ".join(versions)
            )
        for key in changed("cpus", "threads"):
            _logger.warning(
                "The run began with other %s (%s, now %s): sums are rounded in another order, so it may not end "
                "exactly as it would have.",
                key, then[key], now[key],
            )  # fmt: skip

    def evaluate_untrained(self):
        """Return the test metrics of the initial weights. A resumed run has their file or the same initial weights."""
        folder, monitor = self.folder, self.recipe.training.monitor
        self.first_weights = [(weight, array_of(weight)) for weight in self.embedder.weights]
        # One graph for both; nothing is traced until it is called.
        embed = inference_function(self.embedder, self.workers)
        if not folder.untrained_metrics.exists():
            write_json(folder.untrained_metrics, self.evaluate(self.datasets.test, embed)[-1])
        if not folder.untrained_validation.exists():
            metrics = self.evaluate(self.datasets.validation, embed, search="exact")[-1]
            write_json(folder.untrained_validation, {monitor: metrics[monitor]})
        value = read_json(folder.untrained_validation).get(monitor)
        # None if the embeddings are not finite.
        self.untrained_value = -math.inf if value is None else value
        return read_json(folder.untrained_metrics)

    def evaluate(self, dataset, embed, search=None):
        config = self.recipe.evaluation
        batches = data.evaluation_batches(dataset, config.batch_size, self.datasets.preprocessing)
        return evaluate_embedder(
            embed, batches, ks=config.recall_at, is_query=dataset.is_query, search=search or config.search,
            relation=builders.make_relation(self.recipe), annotations=dataset.annotations,
        )  # fmt: skip

    def restore(self):
        """Create the callbacks and restore the state of the last complete epoch, if there is one."""
        self.callbacks = RunCallbacks(self.recipe, self.folder, self.datasets, self.untrained_value)
        self.early_stopping, self.best_weights = self.callbacks["early_stopping"], self.callbacks["best_weights"]
        if self.callbacks.validations_done:
            self.callbacks.restore(self.model)
            _logger.info("Resuming after %d validations.", self.callbacks.validations_done)

    def fit(self):
        if self.callbacks.are_over:
            _logger.info("The training is complete.")
            self.early_stopping.set_model(self.model)
            self.early_stopping.on_train_end()
            return
        config, datasets, done = self.recipe.training, self.datasets, self.callbacks.validations_done
        if not done:
            # The initial weights are the best ones until a validation is better.
            self.best_weights.write(self.embedder)
        start_batch = done * config.steps_per_validation
        batches = builders.training_batches(self.recipe, datasets, start_batch=start_batch, part=self.part)
        progress = {0: [], 1: [ProgressBar], 2: [ProgressLines]}[self.verbose]
        printing = [kind(config.steps_per_validation, config.max_validations, self.early_stopping) for kind in progress]
        self.model.fit(
            distribute(batches, self.recipe.batches.size, self.workers),
            steps_per_epoch=config.steps_per_validation,
            epochs=config.max_validations,
            initial_epoch=done,
            validation_data=builders.validation_batches(self.recipe, datasets, part=self.part),
            callbacks=[*self.callbacks.values(), *printing, *self.extra_callbacks],
            verbose=0,
            # The batches are shuffled already; Keras 3 would warn that it does not shuffle them.
            shuffle=False,
        )
        if self.callbacks["non_finite"].stopped_step is not None:
            self.fail()

    def fail(self):
        step, best = self.callbacks["non_finite"].stopped_step, self.early_stopping.best_epoch
        path = self.folder.best_weights
        if best is None:
            kept = "There was no validation before, so there are no best weights."
        elif self.best_weights.is_better_than_untrained:
            value = f"{self.early_stopping.monitor} {self.early_stopping.best:.4f}"
            kept = f"The best weights ({value} after validation {best + 1}) are in {path}."
        else:
            kept = f"No validation was better than the untrained network, whose weights are in {path}."
        message = f"The loss is not finite at step {step}. {kept}"
        write_json(self.folder.failure, {"step": step, "message": message})
        raise NonFiniteLossError(message)

    def finish(self, untrained):
        """Evaluate, plot and export the best weights. Each part can be repeated; the metrics are written last."""
        if self.early_stopping.best_epoch is None:
            monitor = self.recipe.training.monitor
            raise NonFiniteLossError(f"No validation had a finite {monitor}, so there are no best weights.")
        if not self.best_weights.is_better_than_untrained:
            self.keep_untrained()
        # Again, because the file may be lost or damaged.
        self.best_weights.write(self.embedder)
        if not self.workers.is_single:
            # An embedder for one device. All workers must read the weights.
            self.embedder = builders.restore_embedder(self.recipe, self.embedder.get_weights())
        if self.workers.is_chief:
            self.write_result(untrained)
        wait_for_all(self.workers)
        result = dataclasses.replace(_read_result(self.run_folder), embedder=self.embedder)
        wait_for_all(self.workers)
        if self.workers.is_chief:
            # Folders of workers that were killed.
            for path in self.folder.path.glob("workertemp_*"):
                shutil.rmtree(path, ignore_errors=True)
        return result

    def keep_untrained(self):
        """Return to the initial weights."""
        monitor, stopping = self.recipe.training.monitor, self.early_stopping
        _logger.warning(
            "TRAINING DID NOT HELP: no validation was better than the untrained network (%s %.4f, the best %.4f after "
            "validation %d). The run keeps the untrained weights. Try a smaller optimizer.learning_rate (%g), or look "
            "at %s.",
            monitor, self.untrained_value, stopping.best, stopping.best_epoch + 1, self.recipe.optimizer.learning_rate,
            self.folder.history,
        )  # fmt: skip
        for weight, value in self.first_weights:
            weight.assign(value)

    def write_result(self, untrained):
        recipe, folder, history = self.recipe, self.folder, self.callbacks["history"]
        dataset, preprocessing = self.datasets.test, self.datasets.preprocessing
        embeddings, labels, metrics = self.evaluate(dataset, inference_function(self.embedder))
        if recipe.evaluation.keep_embeddings:
            kept: Any = dataset.annotations if recipe.has_relation else labels
            write_embeddings(folder.test_embeddings, embeddings, kept, dataset.is_query)
        with whole_path(folder.embedder) as partial:
            self.embedder.save(partial)
        if not folder.saved_model.exists():
            max_pixels = getattr(dataset, "max_pixels", MAX_PIXELS)
            export_saved_model(self.embedder, folder.saved_model, preprocessing=preprocessing, max_pixels=max_pixels)
        if recipe.evaluation.figures:
            draw_training(folder.figures, history.columns)
            draw_evaluation(
                folder.figures, dataset, preprocessing, embeddings, labels, recipe.evaluation, recipe.seed,
                embedder=self.embedder, relation=builders.make_relation(recipe),
            )  # fmt: skip
        columns, monitor = history.columns, recipe.training.monitor
        training = {"epochs": len(history.rows), "steps": columns["step"][-1], "seconds": round(history.seconds, 1)}
        if "projection" in columns:
            training["projections"] = columns["projection"][-1] + 1
        validation = {monitor: self.early_stopping.best, "epoch": self.early_stopping.best_epoch + 1}
        if not self.best_weights.is_better_than_untrained:
            validation = {monitor: self.untrained_value, "epoch": 0}
        result = {"test": metrics, "untrained": untrained, "validation": validation, "training": training}
        write_json(folder.test_metrics, result)
        _logger.info("Test MAP@R %.4f (untrained %.4f).", metrics["map_at_r"], untrained["map_at_r"])
