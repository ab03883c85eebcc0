"""Initialize prototypes after a warm-up with average pooling."""

from __future__ import annotations

import logging
from typing import Any

import keras

from tfdml._utils.arguments import check_whole_number
from tfdml._utils.types import Batches, Config, Logs
from tfdml.layers import GeneralizedSumPooling
from tfdml.models import MetricModel, adapt_pooling

_logger = logging.getLogger(__name__)


class PrototypeWarmup(keras.callbacks.Callback):
    """Trains with average pooling first, then initializes the prototypes of generalized sum pooling.

    Use it if the backbone starts from random weights, so that prototypes are selected from features that have learned
    something. With a pretrained backbone, `adapt_pooling` before training suffices.

    During the first epochs the pooling layer uses `ratio=1.0`, which is global average pooling. Then its prototypes are
    selected from the local features by greedy k-center, and it pools with its own ratio.

    The author's code starts prototypes as with `steps` and `pooled=True`: it pools by the average until 1,024 pooled
    features are stored, and selects from them. Give those training batches as `images`. Here the network at the end of
    the warm-up embeds them, in inference mode; the code stores the features of each training step.

    Callbacks that save the best weights should ignore the warm-up: set their `start_from_epoch`.

    Args:
        images: Array of images, or finite batches of images or (images, labels), as for `tfdml.models.embed`.
            Prototypes are selected from their local features.
        epochs: int. Number of epochs of the warm-up. Default 1.
        steps: int or `None`. Number of training steps of the warm-up, which can end within an epoch, instead of
            `epochs`. Default `None`.
        **options: Arguments of `tfdml.models.adapt_pooling`, such as `pooled=True`, and of `PrototypePooling.adapt`.

    Raises:
        ValueError: If `epochs` or `steps` is below 1.
        TypeError: If the model is not a `MetricModel`, or the layer `"pooling"` of its embedder is not a
            `GeneralizedSumPooling`.

    Example:
        >>> import numpy as np
        >>> from tfdml.callbacks import RetrievalEarlyStopping
        >>> images = np.zeros((8, 32, 32, 3), "float32")  # Training images, drawn at random.
        >>> callbacks = [PrototypeWarmup(images, epochs=2), RetrievalEarlyStopping(patience=10, start_from_epoch=2)]

    Reference:
        Gürbüz, "Novel Optimization Models to Generalize Deep Metric Learning", METU 2022, does not say how prototypes
        are initialized; its code uses average pooling until a memory of pooled features is full, and selects from it.
    """

    def __init__(self, images: Batches, epochs: int = 1, steps: int | None = None, **options: Any) -> None:
        super().__init__()
        self.images = images
        self.epochs = check_whole_number("epochs", epochs, minimum=1)
        self.steps = None if steps is None else check_whole_number("steps", steps, minimum=1)
        self.options = options
        self._is_over = False
        self._steps_done = self._last_step = 0
        self._ratio: float | None = None

    def on_train_begin(self, logs: Logs | None = None) -> None:
        if not isinstance(self.model, MetricModel):
            raise TypeError(f"PrototypeWarmup needs a MetricModel. Received: {type(self.model).__name__}.")
        pooling = self._pooling
        if not isinstance(pooling, GeneralizedSumPooling):
            raise TypeError(
                f"The pooling layer has no prototypes. Received: {type(pooling).__name__}. Expected: "
                "GeneralizedSumPooling."
            )
        if not self._is_over:
            self._ratio = pooling.ratio
            self._set_ratio(1.0)

    def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None:
        # A callback that resumes training restores the counter before the first epoch.
        self._last_step = int(self.model.steps)

    def on_train_batch_end(self, batch: int, logs: Logs | None = None) -> None:
        if self._is_over or self.steps is None:
            return
        step = int(self.model.steps)
        self._steps_done += step - self._last_step
        self._last_step = step
        if self._steps_done >= self.steps:
            self._end(f"{self._steps_done} steps")

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        if not self._is_over and self.steps is None and epoch + 1 >= self.epochs:
            self._end(f"{epoch + 1} epochs")

    def _end(self, length):
        self._is_over = True
        self._set_ratio(self._ratio)
        adapt_pooling(self.model.embedder, self.images, **self.options)
        _logger.info("Prototypes initialized after %s of average pooling.", length)

    def on_train_end(self, logs: Logs | None = None) -> None:
        # If training ends during the warm-up, restore the layer's own ratio.
        if self._pooling.ratio != self._ratio and self._ratio is not None:
            self._set_ratio(self._ratio)

    @property
    def _pooling(self):
        return self.model.embedder.get_layer("pooling")

    def _set_ratio(self, ratio):
        self._pooling.ratio = ratio
        self.model.retrace()

    def get_state(self) -> Config:
        """Return whether the warm-up is over, and its steps so far; the prototypes are weights of the model."""
        return {"is_over": self._is_over, "steps_done": self._steps_done}

    def set_state(self, state: Config) -> None:
        """Restore the state returned by `get_state`."""
        self._is_over = state["is_over"]
        # Earlier versions counted epochs only.
        self._steps_done = state.get("steps_done", 0)
