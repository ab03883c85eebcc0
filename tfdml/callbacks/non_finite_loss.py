"""Ending a training whose loss is no longer a number."""

from __future__ import annotations

import logging
import math

import keras

from tfdml._utils.types import Logs
from tfdml._utils.variables import number

_logger = logging.getLogger(__name__)


class StopOnNonFiniteLoss(keras.callbacks.Callback):
    """Stops as soon as the loss is NaN or infinite and remembers the step.

    The weights are spoilt by then; `RetrievalEarlyStopping` puts the best ones back when the training ends.

    Attributes:
        stopped_step: Number of the optimizer step, counted from 1, that gave the loss; None if there was none.
    """

    def __init__(self) -> None:
        super().__init__()
        self.stopped_step = None

    def on_train_begin(self, logs: Logs | None = None) -> None:
        self.stopped_step = None

    def on_train_batch_end(self, batch: int, logs: Logs | None = None) -> None:
        loss = (logs or {}).get("loss")
        if self.stopped_step is None and loss is not None and not math.isfinite(loss):
            self.stopped_step = number(getattr(self.model, "steps", self.model.optimizer.iterations))
            self.model.stop_training = True
            _logger.error("The loss is %s at step %d: training stops.", loss, self.stopped_step)
