"""Retrieval metrics for models that know nothing of them."""

from __future__ import annotations

import collections.abc
from collections.abc import Sequence
from typing import Any

import keras

from tfdml._utils.types import Logs
from tfdml.metrics import retrieval_metrics
from tfdml.models import embed, inference_function
from tfdml.models.batches import finite_batches


class RetrievalMetrics(keras.callbacks.Callback):
    """Puts the exact retrieval metrics of a validation set into the logs of a plain `keras.Model`.

    The model must give embeddings. Put this callback before those that read its metrics (early stopping, CSV logs), and
    tell Keras' own callbacks that more is better: without `mode="max"`, Keras 2 minimizes.

    Args:
        validation_data: A pair of arrays (images, labels), or a finite `tf.data.Dataset` or `keras.utils.PyDataset` of
            such batches. Labels are integers or strings, `(n,)` or `(n, 1)`.
        prefix: Of the metrics' names in the logs.
        batch_size: For arrays.
        ks: The k of recall@k.

    Raises:
        ValueError: If the validation data are endless or have no labels.
        TypeError: If they are a generator, which ends after one epoch.

    Example:
        >>> import numpy as np
        >>> from tfdml import losses
        >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
        >>> model.compile("adam", loss=losses.get("c2"))
        >>> images, labels = np.random.default_rng(0).normal(size=(8, 4)), np.repeat([0, 1, 2, 3], 2)
        >>> retrieval = RetrievalMetrics((images, labels))
        >>> stopping = keras.callbacks.EarlyStopping("val_map_at_r", mode="max", patience=3)
        >>> history = model.fit(images, labels, epochs=2, callbacks=[retrieval, stopping], verbose=0)
        >>> len(history.history["val_map_at_r"])
        2
    """

    def __init__(
        self, validation_data: Any, prefix: str = "val_", batch_size: int = 256, ks: Sequence[int] = (1, 2, 4, 8)
    ) -> None:
        super().__init__()
        if isinstance(validation_data, collections.abc.Iterator):
            raise TypeError(
                f"Validation data must be readable once per epoch. Received: {type(validation_data).__name__}. "
                "Expected: arrays, a `tf.data.Dataset` or a `keras.utils.PyDataset`."
            )
        finite_batches(validation_data)
        self.validation_data = validation_data
        self.prefix = prefix
        self.batch_size = batch_size
        self.ks = tuple(ks)
        self._embedder: Any = None

    def on_train_begin(self, logs: Logs | None = None) -> None:
        self._embedder = inference_function(self.model)

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        if logs is None:
            return
        result = embed(self._embedder, self.validation_data, self.batch_size)
        if not isinstance(result, tuple):
            raise ValueError("Retrieval is judged by labels. Received: validation data of images without labels.")
        values = retrieval_metrics(*result, ks=self.ks)
        logs.update({f"{self.prefix}{name}": value for name, value in values.items() if isinstance(value, float)})
