"""Ranking metrics during the training of a dual encoder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras

from tfdml._utils.types import Logs
from tfdml.models import DualEncoder


class RankingMetrics(keras.callbacks.Callback):
    """Adds ranking metrics of validation queries, such as `val_ndcg_at_10`, to the logs of a `DualEncoder`.

    After each epoch, the queries search among all items. Place this callback before those that read its metrics, such
    as early stopping or CSV logs, and pass `mode="max"` to Keras' own.

    Args:
        queries: Queries, as for `DualEncoder.embed_queries`.
        items: Items, as for `DualEncoder.embed_items`.
        relevant: For each query its relevant items, as for `tfdml.metrics.ranking_metrics`.
        prefix: str. Prefix of the metrics' names in the logs. Default `"val_"`.
        batch_size: int. Queries or items per batch; used for arrays only. Default 256.
        **options: Other arguments of `tfdml.metrics.ranking_metrics`, such as `ks`.

    Raises:
        TypeError: At the start of training, if the model is not a `DualEncoder`.

    Example:
        >>> import numpy as np
        >>> from tfdml.models import DualEncoder
        >>> model = DualEncoder(keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)]))
        >>> model.compile("adam")
        >>> x = np.random.default_rng(0).normal(size=(8, 4)).astype("float32")
        >>> ranking = RankingMetrics(x, x, relevant=range(8), ks=(1, 10))
        >>> history = model.fit(x, x, epochs=2, callbacks=[ranking], verbose=0)
        >>> len(history.history["val_ndcg_at_10"])
        2
    """

    def __init__(
        self,
        queries: Any,
        items: Any,
        relevant: Sequence[Any],
        prefix: str = "val_",
        batch_size: int = 256,
        **options: Any,
    ) -> None:
        super().__init__()
        self.queries, self.items, self.relevant = queries, items, relevant
        self.prefix, self.batch_size, self.options = prefix, batch_size, options

    def on_train_begin(self, logs: Logs | None = None) -> None:
        if not isinstance(self.model, DualEncoder):
            raise TypeError(
                f"Ranking metrics need two encoders. Received: a {type(self.model).__name__}. Expected: a DualEncoder. "
                "Use RetrievalMetrics for an embedder."
            )

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        if logs is None:
            return
        values = self.model.ranking_metrics(self.queries, self.items, self.relevant, self.batch_size, **self.options)
        logs.update({f"{self.prefix}{name}": value for name, value in values.items() if isinstance(value, float)})
