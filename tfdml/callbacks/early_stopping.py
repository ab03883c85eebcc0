"""Early stopping on retrieval quality."""

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
    """Stops when retrieval on the validation set no longer improves, and goes back to the best weights.

    Unlike `keras.callbacks.EarlyStopping` it restores the best weights however the training ends, and its state can be
    saved by `TrainingBackup`.

    Args:
        patience: How many validations in a row may pass without a better value.
        monitor: Metric in the logs; larger is better.
        min_delta: By how much a value must exceed the best to be better.
        restore_best_weights: Whether the model ends with the best weights rather than the last.
        start_from_epoch: Validations of the epochs before, counted from 0, are passed over, as those of a warm-up.

    Attributes:
        best: The best value, `-inf` before the first validation.
        best_epoch: Its epoch, counted from 0.
        stopped_epoch: The epoch that ended the training early, or None.

    Raises:
        ValueError: If the patience is below 1 or `min_delta` is negative.
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
            raise ValueError(f"patience must be at least 1. Received: patience={patience}.")
        if min_delta < 0:
            raise ValueError(f"min_delta must not be negative. Received: min_delta={min_delta}.")
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
        # A fit starts afresh, unless a backup has just given the state of the one it continues.
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
        # Those of a backup are in the same order.
        variables = self._best_variables or ordered_weights(self.model)
        for variable, value in zip(variables, self.best_weights):
            variable.assign(value)
        _logger.info("Restored the weights of epoch %d: %s = %.4f", self.best_epoch + 1, self.monitor, self.best)

    def get_state(self) -> Config:
        """What a resumed training needs: scalars and lists of arrays."""
        return {
            "best": self.best,
            "best_epoch": self.best_epoch,
            "wait": self.wait,
            "best_weights": self.best_weights or [],
        }

    def set_state(self, state: Config) -> None:
        """Takes over what `get_state` gave."""
        self._reset()
        self.best, self.best_epoch, self.wait = state["best"], state["best_epoch"], state["wait"]
        self.best_weights = state["best_weights"] or None
        self._restored = True
