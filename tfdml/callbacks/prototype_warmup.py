"""Prototypes from a network that has learnt something already."""

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
    """Trains with average pooling at first, then gives generalized sum pooling its prototypes.

    For the first epochs the pooling layer keeps all of the mass (`ratio=1.0`), which is global average pooling. Then
    its prototypes are chosen from the local features by greedy k-center, and it pools by its own ratio from there on.

    Callbacks that look for the best weights should pass these epochs over: their `start_from_epoch`.

    Args:
        images: What the prototypes are chosen from: an array of images, or a `tf.data.Dataset` of batches of images or
            of (images, labels).
        epochs: Length of the warm-up.
        **options: Arguments of `GeneralizedSumPooling.adapt`.

    Raises:
        ValueError: If `epochs` is below 1.
        TypeError: If the model is no `MetricModel`, or the layer `"pooling"` of its embedder no
            `GeneralizedSumPooling`.

    Reference:
        Gürbüz, "Novel Optimization Models to Generalize Deep Metric Learning", METU 2022, does not say how prototypes
        start; its code pools by the average until a memory of pooled features is full, and chooses from that.
    """

    def __init__(self, images: Batches, epochs: int = 1, **options: Any) -> None:
        super().__init__()
        self.images = images
        self.epochs = check_whole_number("epochs", epochs, minimum=1)
        self.options = options
        self._is_over = False
        self._ratio: float | None = None

    def on_train_begin(self, logs: Logs | None = None) -> None:
        if not isinstance(self.model, MetricModel):
            raise TypeError(f"PrototypeWarmup drives a MetricModel. Received: {type(self.model).__name__}.")
        pooling = self._pooling
        if not isinstance(pooling, GeneralizedSumPooling):
            raise TypeError(f"There are no prototypes to warm up to. Received: {type(pooling).__name__} as pooling.")
        if not self._is_over:
            self._ratio = pooling.ratio
            self._set_ratio(1.0)

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        if self._is_over or epoch + 1 < self.epochs:
            return
        self._is_over = True
        self._set_ratio(self._ratio)
        adapt_pooling(self.model.embedder, self.images, **self.options)
        _logger.info("The pooling has its prototypes after %d epochs of average pooling.", epoch + 1)

    def on_train_end(self, logs: Logs | None = None) -> None:
        # A training that ends earlier leaves the layer as it was made.
        if self._pooling.ratio != self._ratio and self._ratio is not None:
            self._set_ratio(self._ratio)

    @property
    def _pooling(self):
        return self.model.embedder.get_layer("pooling")

    def _set_ratio(self, ratio):
        self._pooling.ratio = ratio
        self.model.retrace()

    def get_state(self) -> Config:
        """Whether the warm-up is over; the prototypes are among the model's weights."""
        return {"is_over": self._is_over}

    def set_state(self, state: Config) -> None:
        """Takes over what `get_state` gave."""
        self._is_over = state["is_over"]
