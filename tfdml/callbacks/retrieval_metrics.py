"""Retrieval metrics for plain Keras models."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras

from tfdml import relations
from tfdml._utils.types import Identifier, Logs
from tfdml.metrics import retrieval_metrics
from tfdml.models import embed, inference_function
from tfdml.models.batches import check_rereadable, finite_batches


class RetrievalMetrics(keras.callbacks.Callback):
    """Adds exact retrieval metrics of a validation dataset to the logs of a plain `keras.Model`.

    Use it to evaluate an embedder that is trained by your own `keras.Model`; a `MetricModel` computes these metrics
    itself. The output of the model must be embeddings. Place this callback before those that read its metrics, such as
    early stopping or CSV logs. Pass `mode="max"` to Keras' own callbacks: without it, Keras 2 minimizes.

    Args:
        validation_data: Tuple of arrays (images, labels), or finite `tf.data.Dataset` or `keras.utils.PyDataset` of
            such batches. Labels are integers or strings, `(n,)` or `(n, 1)`, or what the relation compares.
        prefix: str. Prefix of the metrics' names in the logs. Default `"val_"`.
        batch_size: int. Images per batch; used for arrays only. Default 256.
        ks: Sequence of int. Values of k for recall@k. Default (1, 2, 4, 8).
        relation: `tfdml.relations.Relation`, a name or a configuration. Which images are relevant. Default `None`,
            those of the same class.

    Raises:
        ValueError: If the validation data is endless or has no labels, or the relation does not accept a label.
        TypeError: If the validation data is a generator, which could be read only once.

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
        self,
        validation_data: Any,
        prefix: str = "val_",
        batch_size: int = 256,
        ks: Sequence[int] = (1, 2, 4, 8),
        relation: Identifier | None = None,
    ) -> None:
        super().__init__()
        check_rereadable(validation_data, "Validation data")
        finite_batches(validation_data)
        self.validation_data = validation_data
        self.prefix = prefix
        self.batch_size = batch_size
        self.ks = tuple(ks)
        self.relation = None if relation is None else relations.get(relation)
        self._embedder: Any = None

    def on_train_begin(self, logs: Logs | None = None) -> None:
        self._embedder = inference_function(self.model)

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        if logs is None:
            return
        result = embed(self._embedder, self.validation_data, self.batch_size)
        if not isinstance(result, tuple):
            raise ValueError(
                "Evaluation needs labels. Received: validation data of images without labels. Expected: pairs of "
                "(images, labels)."
            )
        values = retrieval_metrics(*result, ks=self.ks, relation=self.relation)
        logs.update({f"{self.prefix}{name}": value for name, value in values.items() if isinstance(value, float)})
