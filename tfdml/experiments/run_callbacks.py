"""The callbacks of a run, their order, and their state."""

from __future__ import annotations

import pathlib
from collections.abc import Sequence
from typing import Any, Callable, NamedTuple

import keras
import numpy as np

from tfdml import callbacks
from tfdml._utils.files import whole_path
from tfdml.callbacks.logs import HistoryLog, ProjectionsLog, TensorBoardLog
from tfdml.experiments import builders
from tfdml.experiments.errors import RunFolderError
from tfdml.experiments.recipe import Recipe
from tfdml.experiments.run_folder import RunFolder


class BestWeights(keras.callbacks.Callback):
    """Callback that writes the embedder's weights whenever early stopping finds them the best so far.

    `keras.callbacks.ModelCheckpoint` overwrites the file in place and forgets the best value when a run is resumed.

    Args:
        path: path. File `….weights.h5`, which is replaced as a whole.
        early_stopping: `RetrievalEarlyStopping`, earlier in the list of callbacks.
        untrained: float. Metric of the untrained network. Weights that are not better are not written.
    """

    # The metric of the training is computed in float32.
    _ROUNDING = 1e-6

    def __init__(self, path: pathlib.Path, early_stopping: callbacks.RetrievalEarlyStopping, untrained: float):
        super().__init__()
        self.path = path
        self.early_stopping = early_stopping
        self.untrained = untrained

    @property
    def is_better_than_untrained(self) -> bool:
        """Whether the best validation so far is better than the untrained network."""
        return self.early_stopping.best > self.untrained + self._ROUNDING

    def on_epoch_end(self, epoch, logs=None):
        if self.early_stopping.best_epoch == epoch and self.is_better_than_untrained:
            self.write(self.model.embedder)

    def write(self, embedder: keras.Model) -> None:
        """Write the current weights of the embedder."""
        with whole_path(self.path) as partial:
            embedder.save_weights(partial)


class TimeLimit(keras.callbacks.Callback):
    """Callback that ends training at the end of the first epoch after a time limit, by the clock of the first worker.

    Args:
        minutes: float. The limit, or None.
        history: `HistoryLog`, which measures the time, also across interruptions.
    """

    def __init__(self, minutes: float | None, history: HistoryLog):
        super().__init__()
        self.minutes = minutes
        self.history = history

    @property
    def is_over(self) -> bool:
        """Whether the time is up."""
        return self.minutes is not None and self.history.seconds >= 60 * self.minutes

    def on_epoch_end(self, epoch, logs=None):
        if self.minutes is not None and self.model.workers.broadcast(np.int32(self.is_over)):
            self.model.stop_training = True


class _Entry(NamedTuple):
    """A callback that a run can have.

    Attributes:
        name: Key in `RunCallbacks`.
        is_wanted: Function of the recipe that returns whether the run has it.
        make: Function of the `RunCallbacks`, which contain the callbacks before it, that creates it.
        state: Position of its state in `state.npz`, or None if it has no state.
    """

    name: str
    is_wanted: Callable[[Recipe], Any]
    make: Callable[[Any], keras.callbacks.Callback]
    state: int | None = None


def _always(recipe):
    return True


# In the order in which Keras calls them.
_ENTRIES = (
    # First, because the averages are what is validated and kept.
    _Entry(
        "averaged_weights", lambda recipe: recipe.training.average_momentum is not None,
        lambda run: callbacks.AveragedWeights(run.recipe.training.average_momentum), state=2,
    ),
    _Entry("non_finite", _always, lambda run: callbacks.StopOnNonFiniteLoss()),
    # Without saved state: files of earlier versions have none, and a resumed run warns again.
    _Entry("collapse", lambda recipe: recipe.training.geometry, lambda run: callbacks.CollapseWarning()),
    _Entry(
        "early_stopping", _always,
        lambda run: callbacks.RetrievalEarlyStopping(
            run.recipe.training.patience, run.monitor, start_from_epoch=run.recipe.warmup_validations
        ), state=0,
    ),
    _Entry(
        "best_weights", _always,
        lambda run: BestWeights(run.folder.best_weights, run["early_stopping"], run.untrained_value),
    ),
    _Entry(
        "plateau", lambda recipe: recipe.optimizer.plateau_patience is not None,
        lambda run: callbacks.LearningRateOnPlateau(
            run.recipe.optimizer.plateau_patience, run.recipe.optimizer.plateau_factor, run.monitor
        ), state=3,
    ),
    # After early stopping and best weights, which read the weights that these may replace.
    _Entry(
        "projections", lambda recipe: recipe.ccp.enabled,
        lambda run: builders.alternating_projections(run.recipe, run.datasets, run.monitor), state=4,
    ),
    _Entry(
        "projections_log", lambda recipe: recipe.ccp.enabled,
        lambda run: ProjectionsLog(run.folder.projections, run["projections"]),
    ),
    _Entry(
        "prototype_warmup", lambda recipe: recipe.has_prototype_warmup,
        lambda run: builders.prototype_warmup(run.recipe, run.datasets), state=5,
    ),
    # keras.callbacks.CSVLogger and TensorBoard append to what a killed epoch left; these write whole files again.
    _Entry("history", _always, lambda run: HistoryLog(run.folder.history, run.steps), state=1),
    _Entry("tensorboard", _always, lambda run: TensorBoardLog(run.folder.tensorboard, run.steps)),
    _Entry("time_limit", _always, lambda run: TimeLimit(run.recipe.training.max_minutes, run["history"])),
    # Last, because it saves the state of all others. keras.callbacks.BackupAndRestore saves only the model's.
    _Entry("backup", _always, lambda run: open_backup(run.folder, run.with_state())),
)  # fmt: skip


class RunCallbacks(dict):
    """The callbacks of a run by name, in the order in which Keras calls them.

    Args:
        recipe: The complete recipe.
        folder: `RunFolder`.
        datasets: `ExperimentData`.
        untrained_value: float. Monitored metric of the untrained network.
    """

    def __init__(
        self, recipe: Recipe, folder: RunFolder, datasets: builders.ExperimentData, untrained_value: float
    ):
        super().__init__()
        self.recipe, self.folder, self.datasets, self.untrained_value = recipe, folder, datasets, untrained_value
        self.monitor, self.steps = f"val_{recipe.training.monitor}", recipe.training.steps_per_validation
        for entry in _ENTRIES:
            if entry.is_wanted(recipe):
                self[entry.name] = entry.make(self)

    def with_state(self) -> list[keras.callbacks.Callback]:
        """Return the callbacks whose state is saved, in the order of the file."""
        states = {entry.state: self[entry.name] for entry in _ENTRIES if entry.state is not None and entry.name in self}
        return [states[state] for state in sorted(states)]

    @property
    def validations_done(self) -> int:
        """The number of validations before an interruption."""
        return self["backup"].initial_epoch

    def restore(self, model: keras.Model) -> None:
        """Restore the state of the last complete epoch, which determines whether training is over."""
        try:
            self["backup"].set_model(model)
        except (TypeError, LookupError, AttributeError) as error:
            raise _damaged_state(self.folder, error) from error
        if "projections" in self:
            self["projections"].set_model(model)
        self["history"].write()

    @property
    def are_over(self) -> bool:
        """Whether the training was complete before an interruption."""
        config, done = self.recipe.training, self.validations_done
        return bool(done) and (
            done >= config.max_validations
            or self["early_stopping"].wait >= config.patience
            or ("projections" in self and self["projections"].is_over)
            or self["time_limit"].is_over
        )


def open_backup(
    folder: RunFolder, with_state: Sequence[keras.callbacks.Callback] = ()
) -> callbacks.TrainingBackup:
    """Return the backup in a run's folder. Raise a RunFolderError if its file is damaged."""
    try:
        backup = callbacks.TrainingBackup(folder.state, callbacks=with_state)
        if folder.state.exists() and not (isinstance(backup.initial_epoch, int) and backup.initial_epoch >= 1):
            raise ValueError("it has no number of validations")
        return backup
    except (ValueError, TypeError, LookupError, AttributeError, EOFError, OSError, RecursionError) as error:
        raise _damaged_state(folder, error) from error


def _damaged_state(folder, error):
    return RunFolderError(
        f"The state of the training cannot be read: {error or type(error).__name__}. Received: {folder.state}. "
        "Expected: the file that the run wrote. Restore it, or remove it to train from the start."
    )
