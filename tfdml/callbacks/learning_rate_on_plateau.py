"""A learning rate that falls when retrieval no longer improves."""

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
    """Multiplies the learning rate by a factor when so many validations in a row were not better.

    Unlike `keras.callbacks.ReduceLROnPlateau` it changes every optimizer of a `MetricModel`, that of the proxies, too,
    and its state can be saved by `TrainingBackup`.

    Args:
        patience: How many validations in a row may pass without a better value before the rate falls.
        factor: Of the learning rate, above 0 and below 1.
        monitor: Metric in the logs; larger is better.

    Attributes:
        best: The best value, `-inf` before the first validation.
        wait: Validations since then, or since the rate fell.

    Raises:
        ValueError: If the patience is below 1 or the factor is out of range.
        TypeError: By Keras, when the rate is to fall, if an optimizer has a schedule of its own.
    """

    def __init__(self, patience: int, factor: float = 0.5, monitor: str = "val_map_at_r") -> None:
        super().__init__()
        self.patience = check_whole_number("patience", patience, minimum=1)
        if not 0.0 < factor < 1.0:
            raise ValueError(f"Received: factor={factor!r}; expected 0 < factor < 1.")
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
            _logger.info("The learning rate falls to %g.", number(self.model.optimizer.learning_rate))

    def _optimizers(self):
        if isinstance(self.model, MetricModel):
            return [optimizer for optimizer, _ in self.model.optimizer_groups()]
        return [self.model.optimizer]

    def get_state(self) -> Config:
        """What a resumed training needs."""
        rates = [number(optimizer.learning_rate) for optimizer in self._optimizers()]
        return {"best": self.best, "wait": self.wait, "rates": rates}

    def set_state(self, state: Config) -> None:
        """Takes over what `get_state` gave."""
        self.best, self.wait, self._restored_rates = state["best"], state["wait"], list(state["rates"])
