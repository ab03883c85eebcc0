"""InfoNCE loss for pairs of a query and its positive, the other pairs' positives being the negatives."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from tfdml import ops
from tfdml._utils.types import Labels, TensorLike
from tfdml.layers import References
from tfdml.losses.info_nce import InfoNCELoss


@keras.saving.register_keras_serializable(package="tfdml")
class InBatchNegativesLoss(InfoNCELoss):
    r"""Trains retrieval from pairs of a query and its positive: the other pairs' positives are its negatives.

    With $s_{ij}$ the cosine similarity of query $i$ and positive $j$, and ids that differ,

    $$\frac{1}{b} \sum_i -\log \frac{e^{s_{ii} / \tau}}{\sum_j e^{s_{ij} / \tau}}$$

    The ids tell which positives are the same thing (the same document, the same item). One with the query's own id is
    no negative: it is a positive, too, and the query's value is the mean over its positives, as in `InfoNCELoss`. A
    query without a negative is worth 0. `symmetric` adds the same with queries and positives exchanged, and halves the
    sum.

    `call` takes pairs; `against` takes plain embeddings, as every other loss does.

    Args:
        temperature: $\tau > 0$.
        symmetric: Whether each positive must pick its query, too.
        name: Name of the loss.
        **kwargs: `miner` and `reduction`, as for every `MetricLoss`.

    Raises:
        ValueError: If the temperature is not above 0.

    Reference:
        Henderson et al., "Efficient natural language response suggestion for Smart Reply", 2017, section 4.4; Radford
        et al., "Learning transferable visual models from natural language supervision", ICML 2021 (symmetric form).

    Example:
        >>> queries, documents = tf.constant([[1.0, 0.0], [0.0, 1.0]]), tf.constant([[2.0, 0.0], [0.0, 3.0]])
        >>> loss = InBatchNegativesLoss(temperature=1.0)
        >>> round(float(loss(tf.constant([7, 8]), tf.stack([queries, documents], axis=1))), 4)  # log(1 + 1/e)
        0.3133
    """

    def __init__(
        self, temperature: float = 0.05, symmetric: bool = False, name: str = "in_batch_negatives", **kwargs: Any
    ) -> None:
        super().__init__(temperature, name, **kwargs)
        self.symmetric = bool(symmetric)

    def call(self, y_true: Labels, y_pred: TensorLike) -> tf.Tensor:
        """One value per pair.

        Args:
            y_true: Integer ids of the positives, `(batch,)` or `(batch, 1)`.
            y_pred: Queries and their positives, stacked: `(batch, 2, dim)`.

        Returns:
            `(batch,)`, float32, or float64 if the embeddings are.

        Raises:
            ValueError: If the shapes do not fit.
        """
        stacked = ops.at_least_float32(y_pred)
        if not stacked.shape.is_compatible_with((None, 2, None)):
            raise ValueError(f"Expected queries and their positives, (batch, 2, dim). Received: shape {stacked.shape}.")
        queries, positives = tf.unstack(stacked, num=2, axis=1)
        ids = ops.check_labels(y_true, queries)
        values = self.against(ids, queries, References(positives, ids))
        if not self.symmetric:
            return values
        return (values + self.against(ids, positives, References(queries, ids))) / 2.0
