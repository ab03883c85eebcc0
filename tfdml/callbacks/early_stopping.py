"""Early stopping on a retrieval metric."""

from __future__ import annotations

import logging
import math

import keras

from tfdml._utils.arguments import check_whole_number
from tfdml._utils.types import Config, Logs
from tfdml._utils.variables import array_of
from tfdml.callbacks.monitor import monitored_value
from tfdml.models.snapshot import ordered_weights

_logger = logging.getLogger(__name__)


class RetrievalEarlyStopping(keras.callbacks.Callback):
    """Stops training when a validation metric no longer improves, and restores the best weights.

    Use it instead of `keras.callbacks.EarlyStopping`: larger values are better by default, the best weights are
    restored at the end of training even if it was not stopped early, and `TrainingBackup` can save its state.

    Args:
        patience: int. Number of validations in a row without improvement after which training stops.
        monitor: str. Metric in the logs; larger is better. Default `"val_map_at_r"`.
        min_delta: float. Smallest increase over the best value that counts as an improvement. Default 0.
        restore_best_weights: bool. End training with the best weights instead of the last. Default `True`.
        start_from_epoch: int. First epoch (0-based) whose validation counts. Default 0.

    Attributes:
        best: float. Best value; `-inf` before the first validation.
        best_epoch: int. Epoch of the best value, from 0; `None` before the first validation.
        stopped_epoch: int. Epoch at which training was stopped, from 0; `None` if it was not stopped.

    Raises:
        ValueError: If `patience` is below 1, or `min_delta` or `start_from_epoch` is negative.

    Example:
        >>> import numpy as np
        >>> from tfdml.models import MetricModel
        >>> embedder = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
        >>> model = MetricModel(embedder)
        >>> model.compile("adam", loss="c2")
        >>> images, labels = np.eye(4, dtype="float32"), np.array([0, 0, 1, 1])
        >>> stopping = RetrievalEarlyStopping(patience=3)
        >>> history = model.fit(images, labels, validation_data=(images, labels), callbacks=[stopping], verbose=0)
        >>> stopping.best_epoch
        0
    """

    def __init__(
        self,
        patience: int,
        monitor: str = "val_map_at_r",
        min_delta: float = 0.0,
        restore_best_weights: bool = True,
        start_from_epoch: int = 0,
    ) -> None:
        super().__init__()
        if patience < 1:
            raise ValueError(f"Invalid patience. Received: patience={patience}. Expected: an integer >= 1.")
        if min_delta < 0:
            raise ValueError(f"Invalid min_delta. Received: min_delta={min_delta}. Expected: min_delta >= 0.")
        self.patience = patience
        self.monitor = monitor
        self.min_delta = min_delta
        self.restore_best_weights = restore_best_weights
        self.start_from_epoch = check_whole_number("start_from_epoch", start_from_epoch, minimum=0)
        self._reset()

    def _reset(self):
        self.best = -math.inf
        self.best_epoch: int | None = None
        self.best_weights = self._best_variables = None
        self.wait = 0
        self.stopped_epoch = None
        self._restored = False

    def on_train_begin(self, logs: Logs | None = None) -> None:
        # Start over, unless TrainingBackup has just restored the state of an interrupted fit.
        if not self._restored:
            self._reset()
        self._restored = False

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        value = monitored_value(logs, self.monitor)
        if value is None or epoch < self.start_from_epoch:
            return
        if value > self.best + self.min_delta:
            self.best, self.best_epoch, self.wait = float(value), epoch, 0
            if self.restore_best_weights:
                self._best_variables = ordered_weights(self.model)
                self.best_weights = [array_of(variable) for variable in self._best_variables]
            return
        self.wait += 1
        if self.wait >= self.patience:
            self.stopped_epoch = epoch
            self.model.stop_training = True

    def on_train_end(self, logs: Logs | None = None) -> None:
        if self.best_weights is None or self.best_epoch is None:
            return
        # Weights restored by a backup are in the same order.
        variables = self._best_variables or ordered_weights(self.model)
        for variable, value in zip(variables, self.best_weights):
            variable.assign(value)
        _logger.info("Restored the weights of epoch %d: %s = %.4f", self.best_epoch + 1, self.monitor, self.best)

    def get_state(self) -> Config:
        """Return the state needed to resume: scalars and lists of arrays."""
        return {
            "best": self.best,
            "best_epoch": self.best_epoch,
            "wait": self.wait,
            "best_weights": self.best_weights or [],
        }

    def set_state(self, state: Config) -> None:
        """Restore the state returned by `get_state`."""
        self._reset()
        self.best, self.best_epoch, self.wait = state["best"], state["best_epoch"], state["wait"]
        self.best_weights = state["best_weights"] or None
        self._restored = True
