"""Training runs from begin to end, and from an interruption to the end."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import math
import pathlib
import shutil
import sys

import keras
import tensorflow as tf

from tfdml import data
from tfdml._utils.arguments import check_whole_number
from tfdml._utils.environment import environment
from tfdml._utils.files import reason_of_machine, whole_path
from tfdml._utils.input_errors import InputError, input_errors
from tfdml._utils.log_file import log_file
from tfdml._utils.plain_files import write_json, write_text
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
from tfdml.models import inference_function
from tfdml.ops import MAX_PIXELS

_logger = logging.getLogger(__name__)


class NonFiniteLossError(ArithmeticError):
    """A training whose loss became NaN or infinite; its best weights so far are kept."""


@dataclasses.dataclass(frozen=True)
class TrainingResult:
    """What a finished run gives.

    Attributes:
        folder: Where its files are.
        test: Retrieval metrics of the best weights on the test classes.
        untrained: The same of the network before training.
        validation: The best `map_at_r` (or what the recipe monitors) on the validation classes, and after which `epoch`
            it was reached: 0 if no validation was better than the untrained network, whose weights are kept then.
        training: `epochs`, `steps`, `seconds`, under CCP `projections`.
        embedder: The embedder, or None where the run had finished before.
    """

    folder: pathlib.Path
    test: dict
    untrained: dict
    validation: dict
    training: dict
    embedder: object = None


def train(recipe="default", out=None, *, overrides=None, presets=(), extra_callbacks=(), verbose=None):
    """Trains by a recipe and leaves a run folder.

    Args:
        recipe: A `Recipe`, a recipe's name, or the path of its file.
        out: The run's folder, which must not exist; by default `runs/NAME-DATE-TIME`. Several workers share it, and
            each must name it.
        overrides: Changes of the recipe, as for `load_recipe`.
        presets: Presets that go over the recipe, as for `load_recipe`.
        extra_callbacks: Further Keras callbacks, called last.
        verbose: 0 for silence, 1 for a line for each validation and a progress bar below, 2 for the lines alone; `None`
            is 1 on a terminal and 2 elsewhere.

    Returns:
        A `TrainingResult`.

    Raises:
        ValueError: If the recipe or its data cannot be used (nothing is written then), or the folder exists.
        NonFiniteLossError: If the loss becomes NaN or infinite.
        WorkerLostError: If another worker dies.
    """
    if not isinstance(recipe, Recipe):
        recipe = load_recipe(recipe, overrides, presets)
    elif overrides or presets:
        raise ValueError("Overrides and presets go with a recipe's name. Received: overrides or presets with a Recipe.")
    if recipe.training.strategy != "multi_worker":
        check_is_free(out)
    else:
        index = worker_of_environment()
        if out is None:
            raise InputError(
                "Several workers need the name of the run's folder. Received: no out (--out). Expected: one folder on "
                "a file system that all workers share. Pass the same --out to each."
            )
        if index == 0:
            check_is_free(out)
    workers = make_workers(recipe.training.strategy)
    check_recipe(recipe, workers)
    result = _Run(recipe, workers, extra_callbacks, verbose).carry_out(lambda recipe: _new_folder(recipe, out, workers))
    leave_folder(out, workers)
    return result


@contextlib.contextmanager
def _new_folder(recipe, path, workers):
    folder = RunFolder.create(recipe, path) if workers.is_chief else None
    with lost_workers(workers, path):
        share_folder(path, (), workers)
    if folder is None:
        folder = RunFolder.create(recipe, worker_folder(path, workers))
    with _stopped_in(folder.path), folder.lock():
        yield folder


def resume(path, *, strategy=None, max_validations=None, extra_callbacks=(), verbose=None):
    """Goes on with an interrupted run after its last whole epoch, and ends as it would have ended.

    Training that was complete is not repeated: what is missing of the results is made. A finished run gives
    its result; results that are damaged are made again.

    Args:
        path: The run's folder, which several workers share.
        strategy: Where it goes on, as `training.strategy` of a recipe; by default where it began. For several workers
            it must be given.
        max_validations: Another `training.max_validations`, with which the run ends as if it had begun with it; a
            finished run goes on. Default: that of the run.
        extra_callbacks: As for `train`.
        verbose: As for `train`.

    Returns:
        A `TrainingResult`.

    Raises:
        ValueError: If the folder is no run, another process writes to it, its recipe is not whole, the run ended with a
            loss that is no number, or it has done more validations than it is to have.
        NonFiniteLossError: If the loss becomes NaN or infinite.
        WorkerLostError: If another worker dies.
    """
    if strategy == "multi_worker":
        run = RunFolder(path)
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
    ends = folder.is_finished and max_validations is None
    if strategy is None and began_with == "multi_worker" and not ends:
        raise RunFolderError(
            f"{folder.path} began with several workers. Received: no strategy; expected strategy='multi_worker' "
            "(--strategy multi_worker) with each of them, or another one."
        )
    workers = make_workers(strategy or ("single" if ends else began_with))
    return _resume(folder, workers, strategy or began_with, max_validations, extra_callbacks, verbose)


def _resume(folder, workers, strategy, max_validations, extra_callbacks, verbose):
    with _stopped_in(folder.path):
        if folder.is_finished and max_validations is None and not folder.damaged_results():
            return _read_result(folder)
        with folder.lock():
            recipe = folder.load_recipe()
            if folder.failure.exists():
                raise RunFolderError(
                    f"{folder.path} cannot go on: {read_json(folder.failure)['message']} "
                    "Start anew, for instance with a smaller optimizer.learning_rate."
                )
            _check_line(folder)
            if not folder.read_environment():
                _logger.warning("%s is damaged and written again, with the versions of now.", folder.environment)
                folder.prepare(recipe)
            for path in folder.damaged_results():
                _logger.warning("%s is damaged and made again.", path)
                shutil.rmtree(path.parent) if path.parent == folder.saved_model else path.unlink()
            if max_validations is not None:
                recipe = _prolong(folder, recipe, max_validations)
            recipe = dataclasses.replace(recipe, training=dataclasses.replace(recipe.training, strategy=strategy))
            check_recipe(recipe, workers)
            run = _Run(recipe, workers, extra_callbacks, verbose)
            return run.carry_out(lambda recipe: contextlib.nullcontext(folder))


def _check_line(folder):
    """Raises a RunFolderError if the training began under the other line of Keras."""
    then, now = folder.read_environment().get("packages", {}).get("keras"), keras.__version__
    if folder.state.exists() and then and then.split(".")[0] != now.split(".")[0]:
        raise RunFolderError(
            f"The training began with Keras {then}, and Keras {now} does not read the state of its optimizer. "
            f"Received: {folder.path}. Expected: Keras {then.split('.')[0]}. Go on there; tfdml-evaluate takes the "
            "run here, too."
        )


def _prolong(folder, recipe, max_validations):
    """The recipe with another number of validations; results that were those of the other number are removed."""
    with input_errors():
        wanted = check_whole_number("max_validations", max_validations, minimum=1)
    done = open_backup(folder).initial_epoch
    if wanted < done:
        raise RunFolderError(
            f"The run has done more validations. Received: training.max_validations={wanted}. "
            f"Expected: at least {done}."
        )
    if wanted == recipe.training.max_validations:
        return recipe
    prolonged = dataclasses.replace(recipe, training=dataclasses.replace(recipe.training, max_validations=wanted))
    # First what says that the run is finished: a kill at any time leaves a run that goes on.
    for path in (folder.test_metrics, folder.embedder, folder.test_embeddings):
        path.unlink(missing_ok=True)
    if folder.saved_model.exists():
        shutil.rmtree(folder.saved_model)
    write_text(folder.recipe, dump_recipe(prolonged))
    return prolonged


@contextlib.contextmanager
def _stopped_in(path):
    """Gives what stops a run from outside, such as a full disk, one line that names the folder."""
    try:
        yield
    except KeyboardInterrupt as error:
        # For the command.
        error.folder = path
        raise
    except RunFolderError:
        raise
    except (OSError, RuntimeError, tf.errors.OpError) as error:
        reason = reason_of_machine(error)
        if reason is None:
            raise
        raise RunFolderError(
            f"The run stopped: {reason}. Received: {path}. What the last validation saved is there: mend the cause, "
            f"then go on with --resume {path}."
        ) from error


def result_of(recipe, folder, verbose=0, extra_callbacks=()):
    """The result of a recipe's run: taken from its folder if it is there, else trained, from where it stopped.

    Arguments are as for `train`. A folder that holds a run of another recipe is a RunFolderError.
    """
    folder = pathlib.Path(folder).expanduser()
    if not folder.exists():
        return train(recipe, folder, verbose=verbose, extra_callbacks=extra_callbacks)
    found = RunFolder.open(folder).load_recipe()
    check_same_recipe(folder, found, builders.fill_from(recipe, found))
    return resume(folder, verbose=verbose, extra_callbacks=extra_callbacks)


def check_same_recipe(folder, found, wanted):
    """Raises a RunFolderError if the recipe found in a folder is not the one that is wanted."""
    # Compared as they are written: a tuple of an option, for example, is a list in a file.
    if dump_recipe(found) != dump_recipe(wanted):
        raise RunFolderError(
            f"{folder} holds a run of another recipe. Choose another --out, or remove the folder to run it anew."
        )


def _read_result(folder):
    content = read_json(folder.test_metrics)
    fields = {field.name for field in dataclasses.fields(TrainingResult)} - {"folder", "embedder"}
    if not fields <= set(content):
        raise RunFolderError(f"A file of the run is not what it wrote. Received: {folder.test_metrics}.")
    return TrainingResult(folder=folder.path, **{name: content[name] for name in fields})


class _Run:
    """One run, new or gone on with; the steps in `carry_out` are in the order in which they happen."""

    def __init__(self, recipe, workers, extra_callbacks, verbose):
        self.recipe, self.workers, self.extra_callbacks = recipe, workers, list(extra_callbacks)
        verbose = (1 if sys.stdout.isatty() else 2) if verbose is None else verbose
        self.verbose = verbose if workers.is_chief else 0

    def carry_out(self, open_folder):
        """Trains and evaluates in the folder that a function of the complete recipe opens."""
        with builders.precision_policy(self.recipe.training.precision):
            # Whatever is wrong with recipe or data shows in here, before there is a folder.
            with input_errors():
                self.prepare()
            with open_folder(self.recipe) as self.folder:
                return self.carry_out_in_folder()

    def carry_out_in_folder(self):
        with log_file(self.folder.log):
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
        builders.dry_build(self.recipe)
        keras.utils.set_random_seed(self.recipe.seed)
        self.datasets = builders.load_data(self.recipe)
        builders.check_training_classes(self.recipe, self.datasets)
        self.recipe = recipe = builders.complete_recipe(self.recipe, self.datasets)
        self.embedder = builders.make_embedder(recipe, self.datasets.preprocessing)
        builders.start_embedder(recipe, self.embedder, self.datasets)
        if self.workers.is_single:
            self.model = builders.make_model(recipe, self.embedder, self.datasets.train)
        else:
            self.bring_to_replicas()

    def bring_to_replicas(self):
        """Makes embedder and model for several replicas, with the weights that one device begins with."""
        weights = self.embedder.get_weights()
        # The same random numbers again.
        keras.utils.set_random_seed(self.recipe.seed)
        with self.workers.strategy.scope():
            self.embedder = builders.make_embedder(self.recipe, self.datasets.preprocessing)
            self.embedder.set_weights(weights)
            self.model = builders.make_model(self.recipe, self.embedder, self.datasets.train)

    def leave_replicas(self):
        """Makes an embedder for one device of what the replicas have trained. All workers must call it."""
        self.embedder = builders.restore_embedder(self.recipe, self.embedder.get_weights())

    @property
    def run_folder(self):
        """The run's folder, in which that of another worker than the first lies."""
        return self.folder if self.workers.is_chief else RunFolder(self.folder.path.parent)

    @property
    def part(self):
        """Which share of each batch is this worker's, or None."""
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
        """Metrics of the first weights; an interrupted run has them, or has the same first weights."""
        folder, monitor = self.folder, self.recipe.training.monitor
        self.first_weights = [(weight, array_of(weight)) for weight in self.embedder.weights]
        if not folder.untrained_metrics.exists():
            write_json(folder.untrained_metrics, self.evaluate(self.datasets.test, self.workers)[-1])
        if not _holds_number(folder.untrained_validation, monitor):
            metrics = self.evaluate(self.datasets.validation, self.workers, search="exact")[-1]
            write_json(folder.untrained_validation, {monitor: metrics[monitor]})
        value = read_json(folder.untrained_validation)[monitor]
        # No number, of embeddings that are not finite.
        self.untrained_value = -math.inf if value is None else value
        return read_json(folder.untrained_metrics)

    def evaluate(self, dataset, workers=None, search=None):
        config = self.recipe.evaluation
        batches = data.evaluation_batches(dataset, config.batch_size, self.datasets.preprocessing)
        embed = inference_function(self.embedder, workers)
        search = search or config.search
        return evaluate_embedder(embed, batches, ks=config.recall_at, is_query=dataset.is_query, search=search)

    def restore(self):
        """Makes the callbacks and takes up the state of the last whole epoch, if there is one."""
        self.callbacks = RunCallbacks(self.recipe, self.folder, self.datasets, self.untrained_value)
        if self.callbacks.validations_done:
            self.callbacks.restore(self.model)
            _logger.info("Going on after %d validations.", self.callbacks.validations_done)

    @property
    def early_stopping(self):
        return self.callbacks["early_stopping"]

    @property
    def best_weights(self):
        return self.callbacks["best_weights"]

    def fit(self):
        if self.callbacks.are_over:
            _logger.info("The training is complete.")
            self.early_stopping.set_model(self.model)
            self.early_stopping.on_train_end()
            return
        config, datasets, done = self.recipe.training, self.datasets, self.callbacks.validations_done
        if not done:
            # The best weights are the first ones until a validation is better.
            self.best_weights.write(self.embedder)
        start_batch = done * config.steps_per_validation
        batches = builders.training_batches(self.recipe, datasets, start_batch=start_batch, part=self.part)
        self.model.fit(
            distribute(batches, self.recipe.batches.size, self.workers),
            steps_per_epoch=config.steps_per_validation,
            epochs=config.max_validations,
            initial_epoch=done,
            validation_data=builders.validation_batches(self.recipe, datasets, part=self.part),
            callbacks=[*self.callbacks.values(), *self.progress(), *self.extra_callbacks],
            verbose=0,
            # The batches come shuffled; Keras 3 would warn that it does not do it.
            shuffle=False,
        )
        if self.callbacks["non_finite"].stopped_step is not None:
            self.fail()

    def progress(self):
        """The callback that prints, in a list, or an empty list."""
        config, kinds = self.recipe.training, {0: [], 1: [ProgressBar], 2: [ProgressLines]}[self.verbose]
        return [kind(config.steps_per_validation, config.max_validations, self.early_stopping) for kind in kinds]

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
        message = f"The loss was no finite number at step {step}. {kept}"
        write_json(self.folder.failure, {"step": step, "message": message})
        raise NonFiniteLossError(message)

    def finish(self, untrained):
        """Judges, draws and exports the best weights. Each part can be done again; the metrics come last."""
        recipe, folder, early_stopping = self.recipe, self.folder, self.early_stopping
        if early_stopping.best_epoch is None:
            raise NonFiniteLossError(
                f"No validation gave a {recipe.training.monitor} that is a number, so there are no best weights."
            )
        if not self.best_weights.is_better_than_untrained:
            self.keep_untrained()
        # Again, as the file may have been lost or damaged since.
        self.best_weights.write(self.embedder)
        if not self.workers.is_single:
            self.leave_replicas()
        if self.workers.is_chief:
            self.write_result(untrained)
        wait_for_all(self.workers)
        result = dataclasses.replace(_read_result(self.run_folder), embedder=self.embedder)
        wait_for_all(self.workers)
        if self.workers.is_chief:
            # Of workers that were killed.
            for path in folder.path.glob("workertemp_*"):
                shutil.rmtree(path, ignore_errors=True)
        return result

    def keep_untrained(self):
        """Goes back to the first weights."""
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
        recipe, folder, early_stopping = self.recipe, self.folder, self.early_stopping
        embeddings, labels, metrics = self.evaluate(self.datasets.test)
        if recipe.evaluation.keep_embeddings:
            write_embeddings(folder.test_embeddings, embeddings, labels, self.datasets.test.is_query)
        with whole_path(folder.embedder) as partial:
            self.embedder.save(partial)
        if not folder.saved_model.exists():
            export_saved_model(
                self.embedder, folder.saved_model, preprocessing=self.datasets.preprocessing,
                max_pixels=getattr(self.datasets.test, "max_pixels", MAX_PIXELS),
            )  # fmt: skip
        if recipe.evaluation.figures:
            draw_training(folder.figures, self.callbacks["history"].columns)
            draw_evaluation(
                folder.figures, self.datasets.test, self.datasets.preprocessing, embeddings, labels,
                recipe.evaluation, recipe.seed, embedder=self.embedder,
            )  # fmt: skip
        history, monitor = self.callbacks["history"], recipe.training.monitor
        columns = history.columns
        training = {"epochs": len(history.rows), "steps": columns["step"][-1], "seconds": round(history.seconds, 1)}
        if "projection" in columns:
            training["projections"] = columns["projection"][-1] + 1
        validation = {monitor: early_stopping.best, "epoch": early_stopping.best_epoch + 1}
        if not self.best_weights.is_better_than_untrained:
            validation = {monitor: self.untrained_value, "epoch": 0}
        result = {"test": metrics, "untrained": untrained, "validation": validation, "training": training}
        write_json(folder.test_metrics, result)
        _logger.info("Test MAP@R %.4f (untrained %.4f).", metrics["map_at_r"], untrained["map_at_r"])


def _holds_number(path, name):
    try:
        return isinstance(read_json(path)[name], (float, type(None)))
    except (RunFolderError, KeyError):
        return False
