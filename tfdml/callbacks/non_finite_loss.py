"""Stop training when the loss is NaN or infinite."""

from __future__ import annotations

import logging
import math

import keras

from tfdml._utils.types import Logs
from tfdml._utils.variables import number

_logger = logging.getLogger(__name__)


class StopOnNonFiniteLoss(keras.callbacks.Callback):
    """Stops training as soon as the loss is NaN or infinite, and records the step.

    Unlike `keras.callbacks.TerminateOnNaN`, it records at which step training diverged. The current weights are useless
    by then; combine it with `RetrievalEarlyStopping`, which restores the best weights when training ends.

    Attributes:
        stopped_step: int. Training step, from 1, with the first non-finite loss; `None` if there was none.

    Example:
        >>> from tfdml.callbacks import RetrievalEarlyStopping
        >>> callbacks = [StopOnNonFiniteLoss(), RetrievalEarlyStopping(patience=10)]
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
            _logger.error("Training stopped at step %d: the loss is %s.", self.stopped_step, loss)
