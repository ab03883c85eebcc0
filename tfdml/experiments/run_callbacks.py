"""The callbacks of a run, in their order, and their state."""

from __future__ import annotations

from typing import Callable, NamedTuple

import keras
import numpy as np

from tfdml import callbacks
from tfdml._utils.files import whole_path
from tfdml.callbacks.logs import HistoryLog, ProjectionsLog, TensorBoardLog
from tfdml.experiments import builders
from tfdml.experiments.errors import RunFolderError


class BestWeights(keras.callbacks.Callback):
    """Writes the embedder's weights whenever early stopping finds them the best so far.

    `keras.callbacks.ModelCheckpoint` writes over the file in place and forgets what was best when a run is resumed.

    Args:
        path: The file, `….weights.h5`; it is replaced as a whole.
        early_stopping: The `RetrievalEarlyStopping` of the training, before this one among the callbacks.
        untrained: The metric of the untrained network; weights that are not better are not written.
    """

    # The metric of the training is computed in float32.
    _ROUNDING = 1e-6

    def __init__(self, path, early_stopping, untrained):
        super().__init__()
        self.path = path
        self.early_stopping = early_stopping
        self.untrained = untrained

    @property
    def is_better_than_untrained(self):
        """Whether the best validation so far was better than the untrained network."""
        return self.early_stopping.best > self.untrained + self._ROUNDING

    def on_epoch_end(self, epoch, logs=None):
        if self.early_stopping.best_epoch == epoch and self.is_better_than_untrained:
            self.write(self.model.embedder)

    def write(self, embedder):
        """Writes the embedder's present weights."""
        with whole_path(self.path) as partial:
            embedder.save_weights(partial)


class TimeLimit(keras.callbacks.Callback):
    """Ends the training at the first epoch's end after so many minutes; of several workers by the clock of the first.

    Args:
        minutes: The limit, or None.
        history: The `HistoryLog`, which counts the time.
    """

    def __init__(self, minutes, history):
        super().__init__()
        self.minutes = minutes
        self.history = history

    @property
    def is_over(self):
        """Whether the time is up."""
        return self.minutes is not None and self.history.seconds >= 60 * self.minutes

    def on_epoch_end(self, epoch, logs=None):
        if self.minutes is not None and self.model.workers.broadcast(np.int32(self.is_over)):
            self.model.stop_training = True


class _Entry(NamedTuple):
    """A callback that a run can have.

    Attributes:
        name: Its key in `RunCallbacks`.
        is_wanted: From the recipe to whether the run has it.
        make: From the `RunCallbacks`, which has those before it, to the callback.
        state: Its place among the states in `state.npz`, or `None` for one without a state to be resumed.
    """

    name: str
    is_wanted: Callable
    make: Callable
    state: int | None = None


def _always(recipe):
    return True


# In the order in which Keras calls them.
_ENTRIES = (
    # First, as what is validated and kept are the averages.
    _Entry(
        "averaged_weights", lambda recipe: recipe.training.average_momentum is not None,
        lambda run: callbacks.AveragedWeights(run.recipe.training.average_momentum), state=2,
    ),
    _Entry("non_finite", _always, lambda run: callbacks.StopOnNonFiniteLoss()),
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
    # After early stopping and the best weights, which look at the weights that these may replace.
    _Entry(
        "projections", lambda recipe: recipe.ccp.enabled,
        lambda run: builders.alternating_projections(run.recipe, run.datasets, run.monitor), state=4,
    ),
    _Entry(
        "projections_log", lambda recipe: recipe.ccp.enabled,
        lambda run: ProjectionsLog(run.folder.projections, run["projections"]),
    ),
    _Entry(
        "prototype_warmup", lambda recipe: recipe.warmup_validations,
        lambda run: builders.prototype_warmup(run.recipe, run.datasets), state=5,
    ),
    _Entry("history", _always, lambda run: HistoryLog(run.folder.history, run.steps), state=1),
    _Entry("tensorboard", _always, lambda run: TensorBoardLog(run.folder.tensorboard, run.steps)),
    _Entry("time_limit", _always, lambda run: TimeLimit(run.recipe.training.max_minutes, run["history"])),
    # Last: only what its own epoch's callbacks have done is saved.
    _Entry("backup", _always, lambda run: open_backup(run.folder, run.with_state())),
)  # fmt: skip


class RunCallbacks(dict):
    """The callbacks of a run by name, in the order in which Keras calls them.

    Args:
        recipe: The complete recipe.
        folder: The `RunFolder`.
        datasets: The `ExperimentData`.
        untrained_value: What the recipe monitors, of the untrained network.
    """

    def __init__(self, recipe, folder, datasets, untrained_value):
        super().__init__()
        self.recipe, self.folder, self.datasets, self.untrained_value = recipe, folder, datasets, untrained_value
        self.monitor, self.steps = f"val_{recipe.training.monitor}", recipe.training.steps_per_validation
        for entry in _ENTRIES:
            if entry.is_wanted(recipe):
                self[entry.name] = entry.make(self)

    def with_state(self):
        """The callbacks whose state is saved, in the order of the file."""
        entries = [entry for entry in _ENTRIES if entry.state is not None and entry.name in self]
        return [self[entry.name] for entry in sorted(entries, key=lambda entry: entry.state)]

    @property
    def validations_done(self):
        """The number of validations before an interruption."""
        return self["backup"].initial_epoch

    def restore(self, model):
        """Takes up the state of the last whole epoch, to know whether there is anything left to train."""
        try:
            self["backup"].set_model(model)
        except (TypeError, LookupError, AttributeError) as error:
            raise damaged_state(self.folder, error) from error
        if "projections" in self:
            self["projections"].set_model(model)
        self["history"].write()

    @property
    def are_over(self):
        """Whether the training was complete before an interruption."""
        config, done = self.recipe.training, self.validations_done
        return bool(done) and (
            done >= config.max_validations
            or self["early_stopping"].wait >= config.patience
            or ("projections" in self and self["projections"].is_over)
            or self["time_limit"].is_over
        )


def open_backup(folder, with_state=()):
    """The backup in a run's folder; a RunFolderError if its file is damaged."""
    try:
        backup = callbacks.TrainingBackup(folder.state, callbacks=with_state)
        if folder.state.exists() and not (isinstance(backup.initial_epoch, int) and backup.initial_epoch >= 1):
            raise ValueError("no number of validations in it")
        return backup
    except (ValueError, TypeError, LookupError, AttributeError, EOFError, OSError, RecursionError) as error:
        raise damaged_state(folder, error) from error


def damaged_state(folder, error):
    """The RunFolderError of a state that cannot be read."""
    return RunFolderError(
        f"The state of the training cannot be read: {error or type(error).__name__}. Received: {folder.state}. "
        "Expected: the file that the run wrote. Put it back, or remove it to train from the start."
    )
