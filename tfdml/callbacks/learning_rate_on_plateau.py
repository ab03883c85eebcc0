"""Reduce the learning rate when a retrieval metric no longer improves."""

from __future__ import annotations

import logging
import math

import keras

from tfdml._utils.arguments import check_whole_number
from tfdml._utils.types import Config, Logs
from tfdml._utils.variables import number
from tfdml.callbacks.monitor import monitored_value
from tfdml.models import MetricModel

_logger = logging.getLogger(__name__)


class LearningRateOnPlateau(keras.callbacks.Callback):
    """Multiplies the learning rate by a factor when a validation metric no longer improves.

    Use it instead of `keras.callbacks.ReduceLROnPlateau`: it changes all optimizers of a `MetricModel`, including that
    of the proxies, larger values are better by default, and `TrainingBackup` can save its state.

    Args:
        patience: int. Number of validations in a row without improvement after which the learning rate is reduced.
        factor: float, 0 < factor < 1. Factor by which the learning rate is multiplied at each reduction. Default 0.5.
        monitor: str. Metric in the logs; larger is better. Default `"val_map_at_r"`.

    Attributes:
        best: float. Best value; `-inf` before the first validation.
        wait: int. Number of validations since the best value or the last reduction.

    Raises:
        ValueError: If `patience` is below 1 or `factor` is out of range.
        TypeError: Raised by Keras at a reduction if an optimizer uses a learning rate schedule.

    Example:
        >>> from tfdml.callbacks import RetrievalEarlyStopping
        >>> callbacks = [LearningRateOnPlateau(patience=3, factor=0.5), RetrievalEarlyStopping(patience=10)]
    """

    def __init__(self, patience: int, factor: float = 0.5, monitor: str = "val_map_at_r") -> None:
        super().__init__()
        self.patience = check_whole_number("patience", patience, minimum=1)
        if not 0.0 < factor < 1.0:
            raise ValueError(f"Invalid factor. Received: factor={factor!r}. Expected: 0 < factor < 1.")
        self.factor = float(factor)
        self.monitor = monitor
        self.best, self.wait = -math.inf, 0
        self._restored_rates: list[float] | None = None

    def on_train_begin(self, logs: Logs | None = None) -> None:
        if self._restored_rates is None:
            self.best, self.wait = -math.inf, 0
            return
        for optimizer, rate in zip(self._optimizers(), self._restored_rates):
            optimizer.learning_rate = rate
        self._restored_rates = None

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        value = monitored_value(logs, self.monitor)
        if value is None:
            return
        if value > self.best:
            self.best, self.wait = float(value), 0
            return
        self.wait += 1
        if self.wait >= self.patience:
            self.wait = 0
            for optimizer in self._optimizers():
                optimizer.learning_rate = self.factor * number(optimizer.learning_rate)
            _logger.info("Learning rate reduced to %g.", number(self.model.optimizer.learning_rate))

    def _optimizers(self):
        if isinstance(self.model, MetricModel):
            return [optimizer for optimizer, _ in self.model.optimizer_groups()]
        return [self.model.optimizer]

    def get_state(self) -> Config:
        """Return the state needed to resume."""
        rates = [number(optimizer.learning_rate) for optimizer in self._optimizers()]
        return {"best": self.best, "wait": self.wait, "rates": rates}

    def set_state(self, state: Config) -> None:
        """Restore the state returned by `get_state`."""
        self.best, self.wait, self._restored_rates = state["best"], state["wait"], list(state["rates"])
